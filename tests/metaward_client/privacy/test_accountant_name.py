"""A name of the accountant stands for one set of answers: a ledger keeps answers under it."""

import ast
import hashlib
import inspect
from collections.abc import Iterator
from types import ModuleType

import pytest

from metaward_client.privacy import accountant, privacy_loss
from metaward_client.privacy.accountant import COMPOSITION, accountant_name
from metaward_client.privacy.ledger.limits import accountant_of_record

DECIDED = {
    1: "a60ce8b5609cef49",
}
"""Version of the composition -> the code that it stands for."""


def code_of(node: ast.AST) -> Iterator[str]:
    """Yield kinds, names and constants in order; words about the code are left out."""
    yield type(node).__name__
    for name, value in ast.iter_fields(node):
        for part in value if isinstance(value, list) else [value]:
            if is_words(part):
                continue
            if isinstance(part, ast.AST):
                yield from code_of(part)
            elif part is not None:
                yield f"{name}={part!r}"


def is_words(part: object) -> bool:
    return (
        isinstance(part, ast.Expr)
        and isinstance(part.value, ast.Constant)
        and isinstance(part.value.value, str)
    )


def digest(*modules: ModuleType) -> str:
    parts = (part for module in modules for part in code_of(ast.parse(inspect.getsource(module))))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def test_the_accountant_is_named_with_its_versions() -> None:
    assert accountant_name().startswith("PLD, dp-accounting 0.6")
    assert accountant_name().endswith(f", composition {COMPOSITION}")


def test_a_corrected_composition_is_another_accountant_to_the_ledger(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = accountant_of_record().name
    monkeypatch.setattr(accountant, "COMPOSITION", COMPOSITION + 1)
    assert accountant_of_record().name != before


def test_code_of_the_accountant_does_not_change_without_a_decision_about_its_name() -> None:
    assert digest(accountant, privacy_loss) == DECIDED.get(COMPOSITION), (
        "accountant.py or privacy_loss.py was changed. Can any epsilon or number of rounds be "
        "another one now? Then raise COMPOSITION in accountant.py, so that ledgers ask again and "
        "do not go on with what they kept, and add the new digest to DECIDED beside the old. If no "
        "answer can differ, replace the digest of this version."
    )


def test_words_about_the_code_need_no_decision() -> None:
    said = '"""One."""\nX = 1  # so\ndef f() -> int:\n    """Return it."""\n    return X\n'
    unsaid = "X = 1\ndef f() -> int:\n    return X\n"
    other = unsaid.replace("X = 1", "X = 2")
    assert [*code_of(ast.parse(said))] == [*code_of(ast.parse(unsaid))]
    assert [*code_of(ast.parse(other))] != [*code_of(ast.parse(unsaid))]
