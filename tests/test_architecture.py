"""Rules about the source itself that no other tool checks."""

import ast
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import metaward
import metaward_client
import metaward_server
import metaward_sim

REPOSITORY = Path(__file__).parents[1]
PACKAGES = (metaward, metaward_client, metaward_server, metaward_sim)
HEAVY = {"torch", "flwr", "pydicom", "matplotlib", "scipy", "numpy", "ray"}
ROOMS = {"utils.py", "helpers.py", "base.py", "misc.py", "common.py"}
LIGHT_MODULES = ("metaward.cli", "metaward.errors")


def sources() -> list[Path]:
    folders = [Path(str(package.__file__)).parent for package in PACKAGES]
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


SOURCES = sources()


def name_of(path: Path) -> str:
    """Return ``metaward/cli.py`` for a file of a package."""
    parts = path.parts
    return "/".join(parts[max(i for i, part in enumerate(parts) if part.startswith("metaward")) :])


def imports_at_the_top(tree: ast.Module) -> Iterator[str]:
    """Give the modules that importing this one imports; not those inside functions."""
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting.extend(node.orelse)
        elif isinstance(node, ast.If | ast.Try | ast.With):
            inside = (child for child in ast.walk(node) if child is not node)
            waiting.extend(
                child for child in inside if isinstance(child, ast.Import | ast.ImportFrom)
            )


def file_of(module: str) -> Path | None:
    """Return the source of one of our modules."""
    by_name = {name_of(path): path for path in SOURCES}
    stem = module.replace(".", "/")
    return by_name.get(f"{stem}.py") or by_name.get(f"{stem}/__init__.py")


def everything_imported_by(module: str) -> set[str]:
    """Return the modules that importing ours imports, through ours."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        path = file_of(waiting.pop())
        if path is None:
            continue
        for name in imports_at_the_top(ast.parse(path.read_text(encoding="utf-8"))):
            if name not in found:
                found.add(name)
                waiting.append(name)
    return found


def command_modules() -> list[str]:
    return sorted({entry.module for entry in entry_points(group="metaward.commands")})


@pytest.mark.parametrize("module", [*command_modules(), *LIGHT_MODULES])
def test_a_module_that_help_imports_imports_nothing_heavy(module: str) -> None:
    heavy = {name for name in everything_imported_by(module) if name.split(".")[0] in HEAVY}
    assert heavy == set()


def test_the_search_for_imports_finds_them() -> None:
    assert "torch" in everything_imported_by("metaward.tasks")
    assert "torch" in everything_imported_by("metaward.meta.compose")  # through another of ours
    assert list(imports_at_the_top(ast.parse("def f():\n    import torch"))) == []
    assert list(imports_at_the_top(ast.parse("try:\n    import a\nexcept E:\n    pass"))) == ["a"]


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_module_says_what_it_is_and_prints_nothing(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    printed = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
    ]
    assert printed == []
    assert path.name not in ROOMS


def test_packages_do_no_work_when_they_are_imported() -> None:
    """An ``__init__.py`` is a docstring and, at most, public names."""
    for path in SOURCES:
        if path.name == "__init__.py":
            body = ast.parse(path.read_text(encoding="utf-8")).body[1:]
            kinds = {type(node) for node in body}
            assert kinds <= {ast.ImportFrom, ast.Assign, ast.AnnAssign}, path


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_a_part_has_a_readme_and_says_that_it_is_typed(package: object) -> None:
    folder = Path(str(getattr(package, "__file__", ""))).parent
    assert (folder / "py.typed").is_file()
    assert (folder.parent / "README.md").stat().st_size > 200


def test_tests_are_named_so_that_they_are_found() -> None:
    helpers = {"conftest.py", "dicom_factory.py", "tiny_run.py", "toy_jobs.py", "toy_client_app.py"}
    helpers |= {"ledger_faults.py", "ledger_children.py", "private_site.py"}
    for path in (REPOSITORY / "tests").rglob("*.py"):
        assert path.name.startswith("test_") or path.name in helpers, path
