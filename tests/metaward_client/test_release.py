"""The one door out of a site."""

import ast
from pathlib import Path

import numpy as np
import pytest

import metaward
import metaward_client
import metaward_server
import metaward_sim
from metaward.errors import PrivacyError
from metaward.wire import Update
from metaward_client.privacy.release import Mechanism, release

PACKAGES = (metaward, metaward_client, metaward_server, metaward_sim)
MAY_BUILD_AN_UPDATE = {
    "metaward/wire.py": "decode_update",  # reads what another released
    "metaward_client/privacy/release.py": "release",
}


def builders_in(source: str) -> set[str]:
    """Names of the functions in which ``Update(...)`` is called; "" for the module itself."""
    found: set[str] = set()

    def walk(node: ast.AST, function: str) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = node.name
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "Update":
            found.add(function)
        if isinstance(node, ast.ImportFrom | ast.Import):
            # another name for it would hide a call from this test
            assert not any(name.name == "Update" and name.asname for name in node.names)
        for child in ast.iter_child_nodes(node):
            walk(child, function)

    walk(ast.parse(source), "")
    return found


def test_only_the_release_and_the_decoder_build_an_update() -> None:
    builders: dict[str, set[str]] = {}
    for package in PACKAGES:
        assert package.__file__ is not None
        folder = Path(package.__file__).parent
        for path in folder.rglob("*.py"):
            if found := builders_in(path.read_text(encoding="utf-8")):
                builders[path.relative_to(folder.parent).as_posix()] = found
    assert builders == {path: {name} for path, name in MAY_BUILD_AN_UPDATE.items()}


def test_the_search_for_builders_finds_them() -> None:
    assert builders_in("import w\ndef send(d):\n    return w.Update('x', 0, d)") == {"send"}
    assert builders_in("u = Update('x', 0, {})") == {""}
    assert builders_in("def f():\n    return UpdateLog()") == set()


def test_only_the_clients_work_encodes_an_update() -> None:
    callers = {
        path.name
        for package in PACKAGES
        for path in Path(str(package.__file__)).parent.rglob("*.py")
        if "encode_update(" in path.read_text(encoding="utf-8")
    }
    assert callers == {"wire.py", "site_work.py"}


def test_without_a_mechanism_the_delta_leaves_as_it_is_and_as_a_copy() -> None:
    delta = {"w": np.float32([1.5, -2.0])}
    update = release(delta, study_digest="d", round_index=3, mechanism=Mechanism.NONE)
    assert (update.study_digest, update.round_index) == ("d", 3)
    delta["w"][0] = 0
    np.testing.assert_array_equal(update.delta["w"], [1.5, -2.0])
    assert isinstance(update, Update)


@pytest.mark.parametrize("array", [
    np.float32([np.nan]), np.float32([np.inf]), np.float64([1.0]), np.int32([1]),
])  # fmt: skip
def test_what_is_not_finite_float32_does_not_leave(array: np.ndarray) -> None:
    with pytest.raises(PrivacyError, match=r"round 2, array w.*nothing was sent"):
        release({"w": array}, study_digest="d", round_index=2, mechanism=Mechanism.NONE)


def test_a_mechanism_that_protects_nobody_says_so_wherever_it_is_shown() -> None:
    assert Mechanism.NONE.label == "none (NOT PRIVATE)"
