"""What the documentation says about keys, commands, files and code is so."""

import importlib
import json
import re
import shlex
import subprocess
import sys
import types
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types
import click
import pytest
import typer
import yaml
from pydantic.fields import FieldInfo

from metaward.cli import build_app
from metaward.config import Settings, load_settings
from metaward.device import DEVICE_PATTERN
from metaward.enrolment import ADDRESS
from metaward.learner_settings import PrototypicalSettings, RelationSettings, ReptileSettings
from metaward.study import Study
from metaward_client.site_config import SiteConfig
from metaward_server.coordinator.home import CoordinatorSettings
from metaward_sim.scenario import Scenario, recommended_outer

ROOT = Path(__file__).parent.parent
CONFIGURATION = ROOT / "docs/configuration.md"
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("[!.]*/README.md")],
    key=lambda page: page.as_posix(),
)
PAGE_NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
INLINE_COMMAND = re.compile(r"`metaward ([a-z][a-z -]*)")
DOTTED = re.compile(r"`(metaward(?:_\w+)?(?:\.\w+)+)(?:\(\))?`")
ROW = re.compile(r"^\| `([\w.]+)` \| (.*?) \| (.*?) \| (.+) \|$", re.MULTILINE)


# --- keys --------------------------------------------------------------------------------------


def settings_in(annotation: object) -> list[type[Settings]]:
    """Return the settings models that a type names, in order."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    return [model for part in get_args(annotation) for model in settings_in(part)]


def places(model: type[Settings], prefix: str = "") -> Iterator[tuple[type[Settings], str]]:
    """Give every settings model that a file can hold, with the dotted key where it stands."""
    yield model, prefix
    for name, field in model.model_fields.items():
        for inner in settings_in(field.annotation):
            yield from places(inner, f"{prefix}.{name}" if prefix else name)


def tables(root: type[Settings]) -> dict[str, list[tuple[str, str, str]]]:
    """Return heading -> (key, type, default) for each settings model below ``root``."""
    where: dict[type[Settings], list[str]] = {}
    for model, place in places(root):
        where.setdefault(model, []).append(place)
    return {
        heading(model, keys): [
            (name, type_text(field), default_text(field))
            for name, field in model.model_fields.items()
        ]
        for model, keys in where.items()
    }


def heading(model: type[Settings], keys: list[str]) -> str:
    if keys == [""]:
        return "The file"
    keys_text = ", ".join(f"`{key}`" for key in dict.fromkeys(keys))
    for key in (
        "name",
        "mechanism",
        "protocol",
    ):  # what tells the variants of a settings group apart
        field = model.model_fields.get(key)
        if field is not None and get_origin(field.annotation) is Literal and "model" not in keys:
            variants = get_args(field.annotation)
            if key == "name" or len(variants) == 1:
                return f"{keys_text}, {key} `{variants[0]}`"
    return keys_text


def type_text(field: FieldInfo) -> str:
    return plain_type(field.annotation) + limits_text(field.metadata)


def plain_type(annotation: Any) -> str:
    if settings_in(annotation):
        return "mapping"
    origin = get_origin(annotation)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in get_args(annotation))
    if origin is tuple:
        return f"list of {plain_type(get_args(annotation)[0])}"
    if origin in (Union, types.UnionType):
        parts = [part for part in get_args(annotation) if part is not types.NoneType]
        return " or ".join(plain_type(part) for part in parts)
    if hasattr(annotation, "__metadata__"):
        inner, *metadata = get_args(annotation)
        return plain_type(inner) + "".join(limits_text(part.metadata) for part in metadata)
    plain = {int: "whole number", float: "number", str: "text", date: "date", Path: "path"}
    return "true or false" if annotation is bool else plain[annotation]


def limits_text(metadata: list[Any]) -> str:
    text = ""
    for limit in metadata:
        match limit:
            case annotated_types.Ge(ge):
                text += f", at least {ge}"
            case annotated_types.Gt(gt):
                text += f", above {gt}"
            case annotated_types.Le(le):
                text += f", at most {le}"
            case annotated_types.Lt(lt):
                text += f", below {'2^63' if lt == 2**63 else lt}"
            case annotated_types.MinLen(least):
                text += ", not empty" if least == 1 else f", at least {least}"
            case _ if getattr(limit, "pattern", None) == ADDRESS:
                text += ", host:port"
            case _ if getattr(limit, "pattern", None) == DEVICE_PATTERN:
                text += ": `cpu`, `cuda` or `cuda:1`"
            case _ if getattr(limit, "pattern", None):
                text += ", of a-z, 0-9 and -"
    return text


def default_text(field: FieldInfo) -> str:
    value = field.default
    if field.is_required():
        return "required"
    if value is None:
        return "left out"
    if isinstance(value, Settings):
        return f"`{yaml_text(chosen(value))}`" if chosen(value) else "see below"
    return f"`{yaml_text(value)}`"


def chosen(value: Settings) -> dict[str, Any]:
    """Return the name of a variant, and what differs from the model's own defaults."""
    content = value.model_dump(mode="json")
    own = type(value)().model_dump(mode="json")
    named = type(value).model_fields.get("name")
    is_variant = named is not None and len(get_args(named.annotation)) == 1
    return {
        key: item
        for key, item in content.items()
        if item != own[key] or (is_variant and key == "name")
    }


def yaml_text(value: object) -> str:
    plain = json.loads(json.dumps(value, default=str))
    text: str = yaml.safe_dump(plain, default_flow_style=True, width=1000)
    return text.removesuffix("\n").removesuffix("...").strip()


def documented_tables(part: str) -> dict[str, list[tuple[str, str, str]]]:
    """Return heading -> (key, type, default) as the page has them, under a `##` heading."""
    text = CONFIGURATION.read_text(encoding="utf-8")
    section = re.split(rf"^## {re.escape(part)}$", text, flags=re.MULTILINE)[1]
    section = re.split(r"^## ", section, flags=re.MULTILINE)[0]
    pieces = re.split(r"^### (.+)$", section, flags=re.MULTILINE)
    return {
        title: [(key, kind, default) for key, kind, default, _ in ROW.findall(body)]
        for title, body in zip(pieces[1::2], pieces[2::2], strict=True)
    }


def rows(content: dict[str, list[tuple[str, str, str]]]) -> set[str]:
    return {
        f"### {title} | `{key}` | {kind} | {default} |"
        for title, table in content.items()
        for key, kind, default in table
    }


@pytest.mark.parametrize(
    ("part", "model"),
    [("Scenario", Scenario), ("Site", SiteConfig), ("Coordinator", CoordinatorSettings)],
)
def test_every_key_is_documented_with_its_type_and_default_and_no_other(
    part: str, model: type[Settings]
) -> None:
    documented, true = rows(documented_tables(part)), rows(tables(model))
    wrong = [f"on the page: {row}" for row in sorted(documented - true)]
    wrong += [f"in the code: {row}" for row in sorted(true - documented)]
    assert not wrong, "\n" + "\n".join(wrong)


def test_the_outer_optimisers_that_suit_the_learners_are_documented() -> None:
    text = CONFIGURATION.read_text(encoding="utf-8")
    for learner in (PrototypicalSettings(), RelationSettings(), ReptileSettings()):
        outer = recommended_outer(learner)
        assert f"{outer.name} with `step_size: {outer.step_size}`" in text


@pytest.mark.parametrize(
    ("comment", "model"),
    [
        ("scenario", Scenario),
        ("site", SiteConfig),
        ("study", Study),
        ("coordinator", CoordinatorSettings),
    ],
)
def test_the_sample_files_of_the_configuration_page_are_valid(
    comment: str, model: type[Settings], tmp_path: Path
) -> None:
    samples = [
        body
        for language, body in FENCE.findall(CONFIGURATION.read_text(encoding="utf-8"))
        if language == "yaml" and body.startswith(f"# {comment}.yaml")
    ]
    assert samples
    for sample in samples:
        path = tmp_path / "sample.yaml"
        path.write_text(sample, encoding="utf-8")
        load_settings(path, model)


@pytest.mark.parametrize("name", [path.name for path in (ROOT / "docs/examples").glob("*.yaml")])
def test_the_scenarios_of_the_examples_folder_are_valid(name: str) -> None:
    load_settings(ROOT / "docs/examples" / name, Scenario)


# --- commands ------------------------------------------------------------------------------------


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


# --- files and code -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAGE_NAMES)
def test_every_link_to_a_file_leads_to_one(name: str) -> None:
    page = ROOT / name
    for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if not re.match(r"[a-z]+:|#", target):
            path = (page.parent / target.split("#")[0]).resolve()
            assert path.exists(), f"{name}: {target}"


@pytest.mark.parametrize("name", PAGE_NAMES)
def test_every_name_that_a_python_example_imports_exists(name: str) -> None:
    for language, body in FENCE.findall((ROOT / name).read_text(encoding="utf-8")):
        if language != "python":
            continue
        compile(body, name, "exec")
        for module, names in re.findall(r"^from (metaward\S*) import (.+)$", body, re.MULTILINE):
            for imported in names.split(","):
                assert hasattr(importlib.import_module(module), imported.strip())


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
