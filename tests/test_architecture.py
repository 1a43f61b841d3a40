"""Rules about the source itself that no other tool checks."""

import ast
import re
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
HEAVY = {"torch", "flwr", "pydicom", "matplotlib", "scipy", "numpy", "ray", "requests"}
HEAVY |= {"dicomweb_client", "pynetdicom", "tenacity", "grpc", "prometheus_client"}
ROOMS = {"utils.py", "helpers.py", "base.py", "misc.py", "common.py"}
LIGHT_MODULES = (
    "metaward.cli",
    "metaward.errors",
    "metaward_client.site_config",  # of a probe that is asked three times a minute
    "metaward_server.coordinator.front",
)


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
def test_a_module_of_help_and_of_a_probe_imports_nothing_heavy(module: str) -> None:
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
    """A test outside a module called ``test_...`` would never run."""
    for path in (REPOSITORY / "tests").rglob("*.py"):
        if path.name.startswith("test_"):
            continue
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        names = [node.name for node in nodes if isinstance(node, ast.FunctionDef)]
        assert not [name for name in names if name.startswith("test_")], path


def calls_in(source: str, name: str) -> set[str]:
    """Names of the functions in which ``name(...)`` is called; "" for the module itself."""
    found: set[str] = set()

    def walk(node: ast.AST, function: str) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = node.name
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == name:
            found.add(function)
        if isinstance(node, ast.ImportFrom | ast.Import):
            # another name for it would hide a call from this test
            assert not any(alias.name == name and alias.asname for alias in node.names)
        for child in ast.iter_child_nodes(node):
            walk(child, function)

    walk(ast.parse(source), "")
    return found


PRIVACY = "metaward_client/privacy/"
AUDIT = "metaward_client/privacy_audit/"
"""Attacks the mechanisms on made-up patients, with random numbers that it knows."""


def callers_of(name: str) -> dict[str, set[str]]:
    """Return file -> functions in which ``name(...)`` is called, in all but the audit."""
    found = {name_of(path): calls_in(path.read_text(encoding="utf-8"), name) for path in SOURCES}
    return {
        file: functions
        for file, functions in found.items()
        if functions and not file.startswith(AUDIT)
    }


def importers_of(module: str) -> set[str]:
    """Return the files that import a module, or something in it; also inside functions."""

    def imported(node: ast.AST) -> set[str]:
        if isinstance(node, ast.Import):
            return {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            return {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
        return set()

    return {
        name_of(path)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if any(f"{name}.".startswith(f"{module}.") for name in imported(node))
    }


def test_only_the_door_and_the_decoder_build_an_update() -> None:
    assert callers_of("Update") == {
        "metaward/wire.py": {"decode_update"},  # reads what another released
        f"{PRIVACY}release.py": {"release"},
    }


def test_only_the_clients_work_passes_the_door_and_encodes_an_update() -> None:
    assert callers_of("encode_update") == {"metaward_client/site_work.py": {"_work"}}
    assert "metaward_client/site_work.py" in callers_of("release")


def test_noise_is_added_in_one_place() -> None:
    assert callers_of("normals") == {f"{PRIVACY}noised_sum.py": {"release"}}


def test_noise_and_samples_come_from_the_operating_system_alone() -> None:
    """Nobody but a test gives a key; numpy's and torch's seeded normals are not for data."""
    assert callers_of("NoiseSource") == {f"{PRIVACY}noise.py": {"os_noise"}}
    assert callers_of("os_noise") == {"metaward_client/app.py": {"open_site"}}
    for generator in ("standard_normal", "randn", "randn_like", "normal_", "poisson"):
        assert not [file for file in callers_of(generator) if file.startswith(PRIVACY)], generator


def test_patients_and_blocks_are_drawn_as_poisson_samples_only() -> None:
    assert callers_of("poisson_sample") == {
        f"{PRIVACY}dp_sgd.py": {"sample"},
        f"{PRIVACY}block_release.py": {"block_release"},
    }
    assert callers_of("sample")[f"{PRIVACY}dp_sgd.py"] == {"gradient", "class_sums"}


@pytest.mark.parametrize("mechanism", ["dp_sgd", "block_release"])
def test_only_the_door_uses_a_mechanism(mechanism: str) -> None:
    users = importers_of(f"metaward_client.privacy.{mechanism}")
    assert {user for user in users if not user.startswith(AUDIT)} == {f"{PRIVACY}release.py"}


def test_class_sums_are_made_for_the_one_mechanism_that_draws_a_sample() -> None:
    users = importers_of("metaward_client.privacy.class_sums")
    assert {user for user in users if not user.startswith(AUDIT)} == {f"{PRIVACY}dp_sgd.py"}


def test_only_a_command_of_the_hospitals_starts_an_audit() -> None:
    """No round of a study comes near it: it has mechanisms with known or missing noise."""
    users = {user for user in importers_of("metaward_client.privacy_audit")
             if not user.startswith(AUDIT)}  # fmt: skip
    assert all(re.fullmatch(r"metaward_client/\w+_command\.py", user) for user in users), users


PACS = "metaward_client/pacs/"
CHANGES_A_PACS = (
    "store_instances", "delete_study", "delete_series", "delete_instance", "send_c_store",
    "send_c_move", "send_n_action", "send_n_create", "send_n_delete", "send_n_set", "start_server",
    "post", "put", "patch", "request",
)  # fmt: skip


@pytest.mark.parametrize("name", CHANGES_A_PACS)
def test_nothing_that_speaks_to_a_pacs_changes_it_or_listens(name: str) -> None:
    callers = {
        name_of(path): calls_in(path.read_text(encoding="utf-8"), name)
        for path in SOURCES
        if name_of(path).startswith(PACS)
    }
    assert len(callers) > 10
    # `request` is what a fetch calls the questions that it hands down.
    assert {file for file, functions in callers.items() if functions - {"_ask", "ask"}} == set()


@pytest.mark.parametrize(
    ("library", "modules"),
    [
        ("dicomweb_client", {"dicomweb"}),
        ("requests", {"dicomweb", "dicomweb_access"}),
        ("pynetdicom", {"dimse", "dimse_connection"}),
    ],
)
def test_each_protocol_is_spoken_in_one_place(library: str, modules: set[str]) -> None:
    assert importers_of(library) == {f"{PACS}{module}.py" for module in modules}


def test_the_search_for_calls_finds_them() -> None:
    assert calls_in("import w\ndef send(d):\n    return w.Update('x', 0, d)", "Update") == {"send"}
    assert calls_in("u = Update('x', 0, {})", "Update") == {""}
    assert calls_in("def f():\n    return UpdateLog()", "Update") == set()
    with pytest.raises(AssertionError):
        calls_in("from w import Update as U", "Update")
    assert "metaward_client/site_work.py" in importers_of("metaward_client.privacy.release")
    assert "metaward_client/app.py" in importers_of("metaward_client.site")  # inside a function
