"""What is wrong with a setting, in words: a line for each problem that pydantic found."""

import difflib
import re
from collections.abc import Sequence
from typing import Any, TypeAlias

import yaml
from pydantic import BaseModel

from metaward.patterns import IN_WORDS

Problem: TypeAlias = Any
"""Pydantic's ``ErrorDetails``, whose ``ctx`` depends on the type of the problem."""
_COUNTED = {"too_short": "at least", "too_long": "at most"}
_EXPONENT = re.compile(r"([-+]?\d+)\.?(\d*)[eE]([-+]?)(\d+)")


def problem_in_words(
    problem: Problem, model: type[BaseModel], content: dict[str, Any], tree: yaml.Node | None
) -> str:
    """Return one problem with its line and dotted key.

    Args:
        problem: One of ``ValidationError.errors()``.
        model: What the content was validated against.
        content: What the file holds.
        tree: The file's YAML nodes, for the line; None where there is no file.
    """
    location = _keys_only(problem["loc"], content, may_be_missing=problem["type"] == "missing")
    key = ".".join(str(part) for part in location) or "(top level)"
    line = _line_of(tree, location)
    place = f"{'line ' + str(line) + ', ' if line else ''}{key}"
    match problem["type"]:
        case "union_tag_not_found":
            which = problem["ctx"]["discriminator"].strip("'")
            return f"{place}.{which}: this key is missing, to say which {key} the others are for"
        case "missing":
            return f"{place}: this key is missing"
        case "union_tag_invalid":
            tag, tags = problem["ctx"]["tag"], problem["ctx"]["expected_tags"]
            near = _near(tag, re.findall(r"'([^']*)'", tags))
            return f"{place}: there is no '{tag}'{near}; there are {tags}"
        case "extra_forbidden":
            name, names = str(location[-1]), _all_field_names(model)
            near = " here" if name in names else _near(name, names)
            return f"{place}: there is no such key{near}"
    said = f"{place}: {_said(problem)}"
    if not (problem["type"] == "value_error" and isinstance(problem["input"], dict)):
        said += f" (found {shorten(problem['input'])})"  # of several keys together it says nothing
    return f"{said}; {hint}" if (hint := _hint(problem)) else said


def shorten(value: object, limit: int = 60) -> str:
    """Return a value as it is shown in a message."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _said(problem: Problem) -> str:
    details = problem.get("ctx", {})
    match problem["type"]:
        case "string_pattern_mismatch":
            pattern = details["pattern"]
            return f"must be {IN_WORDS.get(pattern, f'of the form {pattern}')}"
        case "too_short" | "too_long" as kind:
            most = details["min_length" if kind == "too_short" else "max_length"]
            return f"must have {_COUNTED[kind]} {most} values, not {details['actual_length']}"
        case "string_type":
            return "must be text"
        case "tuple_type" | "list_type":
            return "must be a list"
        case "model_type" | "model_attributes_type":
            return "must be keys with values"
    said: str = problem["msg"]
    for speech, plain in (
        ("Value error, ", ""),
        ("Input should ", "must "),
        ("String should ", "must "),
    ):
        if said.startswith(speech):
            return plain + said.removeprefix(speech)
    return said


def _hint(problem: Problem) -> str:
    """Return how to write what YAML took for something else."""
    kind, value = problem["type"], problem["input"]
    if kind == "string_type" and isinstance(value, bool | int | float):
        return "put it in quotes"
    number = _EXPONENT.fullmatch(value) if kind == "float_type" and isinstance(value, str) else None
    if number is None:
        return ""
    whole, part, sign, exponent = number.groups()
    return f"write {whole}.{part or '0'}e{sign or '+'}{exponent}"


def _near(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f" (did you mean '{near[0]}'?)" if near else ""


def _keys_only(
    location: Sequence[object], content: object, *, may_be_missing: bool
) -> list[object]:
    """Drop what pydantic puts into a location beside keys: which member of a union it tried."""
    keys: list[object] = []
    for number, part in enumerate(location, start=1):
        if isinstance(content, dict):
            if part in content:
                content = content[part]
            elif not may_be_missing or number < len(location):
                continue
        elif isinstance(content, list) and isinstance(part, int) and part < len(content):
            content = content[part]
        else:
            continue
        keys.append(part)
    return keys


def _all_field_names(model: type[BaseModel]) -> list[str]:
    names: set[str] = set()
    queue: list[object] = [model]
    seen: set[object] = set()
    while queue:
        current = queue.pop()
        if current in seen:
            continue
        seen.add(current)
        if isinstance(current, type) and issubclass(current, BaseModel):
            for name, field in current.model_fields.items():
                names.add(name)
                queue.append(field.annotation)
        else:
            queue.extend(getattr(current, "__args__", ()))
    return sorted(names)


def _line_of(node: yaml.Node | None, location: Sequence[object]) -> int | None:
    """Return the 1-based line of the deepest part of ``location`` that exists in the YAML tree."""
    line: int | None = None
    for part in location:
        if isinstance(node, yaml.MappingNode):
            match = [(k, v) for k, v in node.value if k.value == str(part)]
            if not match:
                continue  # a discriminator's tag, or a missing key
            line, node = match[0][0].start_mark.line + 1, match[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            if part >= len(node.value):
                break
            node = node.value[part]
            line = node.start_mark.line + 1
    return line
