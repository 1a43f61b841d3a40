"""What the documentation says about keys, commands, files and code is so."""

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import typer

from metaward.arrays import to_arrays
from metaward.cli import build_app
from metaward.meta.compose import initial_parameters
from metaward.model_artefact import ModelCard, save_model
from metaward.privacy_statement import PrivacyStatement
from metaward.report.schema import Report
from metaward.study import Study
from pages import FENCE, PAGE_NAMES, ROOT

HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
INLINE_COMMAND = re.compile(r"`metaward ([a-z][a-z -]*)")
DOTTED = re.compile(r"`(metaward(?:_\w+)?(?:\.\w+)+)(?:\(\))?`")


def command_lines(page: Path) -> list[str]:
    """Return the lines of code blocks that call `metaward`, or `make simulate` with arguments."""
    lines = []
    for _, body in FENCE.findall(page.read_text(encoding="utf-8")):
        for line in body.replace("\\\n", " ").splitlines():
            command = line.strip().removeprefix("$ ").removeprefix(".venv/bin/")
            if command.startswith("metaward "):
                lines.append(command)
            elif command.startswith("make simulate ARGS="):
                quoted = command.removeprefix("make simulate ARGS=")
                (arguments,) = shlex.split(quoted, comments=True)
                lines.append(f"metaward simulate {arguments}")
    return lines


@pytest.fixture(scope="module")
def root_command() -> click.Command:
    return typer.main.get_command(build_app())


def parse(command: click.Command, arguments: list[str]) -> None:
    """Parse a command line as click would, down to the last sub-command, and run nothing."""
    context = command.make_context("metaward", list(arguments), resilient_parsing=False)
    while isinstance(context.command, click.Group):
        rest = [*context._protected_args, *context.args]
        name, inner, rest = context.command.resolve_command(context, rest)
        assert inner is not None
        context = inner.make_context(name, rest, parent=context)


@pytest.mark.parametrize("name", PAGE_NAMES)
def test_every_documented_command_line_is_one_that_metaward_takes(
    name: str, root_command: click.Command
) -> None:
    for line in command_lines(ROOT / name):
        arguments = shlex.split(line, comments=True)[1:]
        try:
            parse(root_command, arguments)
        except click.exceptions.Exit:  # --help and --version
            continue
        except click.ClickException as error:
            pytest.fail(f"{line}: {error.format_message()}")


@pytest.mark.parametrize("name", PAGE_NAMES)
def test_every_command_that_a_sentence_names_exists(name: str, root_command: click.Command) -> None:
    text = FENCE.sub("", (ROOT / name).read_text(encoding="utf-8"))
    for words in INLINE_COMMAND.findall(text):
        command = root_command
        for word in words.split():
            if not isinstance(command, click.Group) or word.startswith("-"):
                break
            assert word in command.commands, f"{name}: `metaward {words.strip()}`"
            command = command.commands[word]


def test_there_are_commands_and_names_to_check() -> None:
    assert len(command_lines(ROOT / "docs/quickstart.md")) >= 5
    assert len(DOTTED.findall((ROOT / "docs/glossary.md").read_text("utf-8"))) >= 10


@pytest.mark.parametrize("name", PAGE_NAMES)
def test_every_link_to_a_file_leads_to_one(name: str) -> None:
    page = ROOT / name
    for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if not re.match(r"[a-z]+:|#", target):
            path = (page.parent / target.split("#")[0]).resolve()
            assert path.exists(), f"{name}: {target}"


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    found: list[str] = []
    for title in HEADING.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        words = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", title).lower()
        found.append(re.sub(r"[^\w\- ]", "", words).replace(" ", "-"))
    return {
        anchor if (before := found[:number].count(anchor)) == 0 else f"{anchor}-{before}"
        for number, anchor in enumerate(found)
    }


@pytest.mark.parametrize("name", PAGE_NAMES)
def test_every_link_to_a_heading_leads_to_one(name: str) -> None:
    page = ROOT / name
    for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        path, _, anchor = target.partition("#")
        if not anchor or re.match(r"[a-z]+:", target):
            continue
        there = (page.parent / path).resolve() if path else page
        if there.suffix == ".md":
            assert anchor in anchors(there), f"{name}: {target}"


def test_every_key_of_a_report_is_documented() -> None:
    page = (ROOT / "docs/evaluation.md").read_text(encoding="utf-8")
    table = page.split("## report.json")[1]
    rows = re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE)
    documented = [key for row in rows for key in re.findall(r"`(\w+)`", row)]
    assert sorted(documented) == sorted(Report.model_fields)


@pytest.mark.parametrize("name", PAGE_NAMES)
def test_every_name_that_a_python_example_imports_exists(name: str) -> None:
    for language, body in FENCE.findall((ROOT / name).read_text(encoding="utf-8")):
        if language != "python":
            continue
        compile(body, name, "exec")
        for module, names in re.findall(r"^from (metaward\S*) import (.+)$", body, re.MULTILINE):
            for imported in names.split(","):
                assert hasattr(importlib.import_module(module), imported.strip())


def test_the_examples_of_the_library_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = ModelCard.of_study(Study(), PrivacyStatement())
    theta = initial_parameters(card.model, card.learner, seed=0)
    save_model(tmp_path / "runs" / "demo" / "model", card, to_arrays(theta))
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "common/README.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for language, body in FENCE.findall(page):
        assert language == "python"
        exec(compile(body, "common/README.md", "exec"), names)
    assert names["right"].shape == (24,)
    assert names["accuracy"].low <= names["accuracy"].mean <= names["accuracy"].high
    assert names["gain"].low <= names["gain"].mean <= names["gain"].high
    assert names["probabilities"].shape == (5, 2)


@pytest.mark.parametrize("name", PAGE_NAMES)
def test_every_dotted_name_of_the_code_that_a_page_mentions_exists(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for dotted in DOTTED.findall(text):
        assert resolves(dotted), f"{name}: {dotted}"


def resolves(dotted: str) -> bool:
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            value: object = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            if not hasattr(value, part):
                return False
            value = getattr(value, part)
        return True
    return False


def test_the_index_names_every_page() -> None:
    index = ROOT / "docs/README.md"
    linked = {
        (index.parent / target).resolve() for target in LINK.findall(index.read_text("utf-8"))
    }
    pages = {page.resolve() for page in (ROOT / "docs").glob("**/*.md")} - {index.resolve()}
    assert pages <= linked


def test_the_tables_of_the_readme_are_what_the_reports_say() -> None:
    script = Path(__file__).parents[1] / "scripts" / "update_readme.py"
    done = subprocess.run([sys.executable, str(script), "--check"], check=False)
    assert done.returncode == 0, "run: python scripts/update_readme.py"
