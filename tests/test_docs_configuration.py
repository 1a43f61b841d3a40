"""Every key of every settings file is on the configuration page, as it is, and no other."""

import json
import re
import types
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types
import pytest
import yaml
from pydantic.fields import FieldInfo

from metaward.config import Settings, load_settings
from metaward.learner_settings import PrototypicalSettings, RelationSettings, ReptileSettings
from metaward.patterns import ADDRESS, ADDRESS_OR_NOTHING, DEVICE
from metaward.study import AdamSettings, Study
from metaward_client.site_config import SiteConfig
from metaward_server.coordinator.home import CoordinatorSettings
from metaward_sim.recommended import recommended_outer
from metaward_sim.scenario import Scenario
from pages import FENCE, ROOT

CONFIGURATION = ROOT / "docs/configuration.md"
ROW = re.compile(r"^\| `([\w.]+)` \| (.*?) \| (.*?) \| (.+) \|$", re.MULTILINE)


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
        return plain_type(inner) + "".join(
            limits_text(part.metadata) for part in metadata if isinstance(part, FieldInfo)
        )
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
            case _ if getattr(limit, "pattern", None) in (ADDRESS, ADDRESS_OR_NOTHING):
                text += ", host:port"
            case _ if getattr(limit, "pattern", None) == DEVICE:
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
    small = recommended_outer(RelationSettings())
    assert f"`step_size: {small.step_size}` and `tau: 1.0e-4` for relation" in text
    assert isinstance(small, AdamSettings)
    assert small.tau == 1.0e-4


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
