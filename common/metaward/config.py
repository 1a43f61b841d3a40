"""Read YAML into frozen pydantic models, and say everything that is wrong with it at once."""

import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from yaml.reader import ReaderError

from metaward.config_problems import problem_in_words, shorten
from metaward.errors import ConfigError

ModelT = TypeVar("ModelT", bound="Settings")


class Settings(BaseModel):
    """Base of every configuration model: frozen, strict, no unknown keys."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    def digest(self) -> str:
        """Return the SHA-256 (hex) of the canonical JSON form: equal settings, equal digest."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


_NOT_OF_ITS_KIND = (ValueError, LookupError, AttributeError, TypeError)
"""What PyYAML raises for a value that its form or tag calls a date, a number or a truth."""


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses what PyYAML lets pass, or fails at without saying where."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> object:
        """Return the value of a node."""
        try:
            value: object = super().construct_object(node, deep)
            if isinstance(value, int):
                str(value)  # Python writes no number of thousands of digits
        except _NOT_OF_ITS_KIND:
            kind = node.tag.rpartition(":")[2]
            raise yaml.constructor.ConstructorError(
                None,
                None,
                f"{shorten(node.value)} is no {_KINDS.get(kind, kind)}",
                node.start_mark,
            ) from None
        if isinstance(value, str) and "\0" in value:
            raise yaml.constructor.ConstructorError(
                None, None, "a control character", node.start_mark
            )
        return value


_KINDS = {"timestamp": "date", "int": "whole number", "float": "number", "bool": "truth value"}


def _mapping_without_duplicates(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[object] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(
                None, None, "a key that is not text; put it in quotes", key_node.start_mark
            )
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key '{key}' stands twice", key_node.start_mark
            )
        seen.add(key)
    loader.flatten_mapping(node)
    return dict(yaml.constructor.SafeConstructor.construct_mapping(loader, node, deep=True))


_StrictLoader.add_constructor(
    yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_duplicates
)


def load_settings(path: Path, model: type[ModelT], *, may_be_empty: bool = True) -> ModelT:
    """Read a YAML file into a settings model.

    Args:
        path: Read once, so it may be a pipe.
        model: What the file must fit.
        may_be_empty: Whether a file without a key stands for all defaults.

    Raises:
        ConfigError: The file is missing, is not YAML, or does not fit the model. The message
            lists every problem with its line and dotted key.
    """
    content, tree = _parse(path)
    if not content and not may_be_empty:
        raise ConfigError(
            "the file is empty",
            expected="at least one key",
            where=str(path),
            next_step="Was it sent or copied whole?",
        )
    return validate_settings(content, model, where=str(path), tree=tree)


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping, for a caller who changes it before validation.

    Raises:
        ConfigError: The file is missing or is not a YAML mapping.
    """
    return _parse(path)[0]


def _parse(path: Path) -> tuple[dict[str, Any], yaml.Node | None]:
    text = _read_text(path)
    try:
        content = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 (a SafeLoader)
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise _not_yaml(f"{error.problem}", f"{path}{line}") from None
    except ReaderError as error:
        line = f", line {text.count(chr(10), 0, error.position) + 1}"
        raise _not_yaml("a control character", f"{path}{line}") from None
    except RecursionError:
        raise _not_yaml("brackets or lists are nested too deeply", str(path)) from None
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise ConfigError(
            f"the file holds {'a list' if isinstance(content, list) else 'a single value'}",
            expected="a YAML mapping of keys to values",
            where=str(path),
            next_step="See docs/configuration.md for an example.",
        )
    return content, tree


def _not_yaml(problem: str, where: str) -> ConfigError:
    return ConfigError(
        f"not valid YAML ({problem})",
        expected="a YAML mapping",
        where=where,
        next_step="Correct that line and run the command again.",
    )


def validate_settings(
    content: dict[str, Any], model: type[ModelT], *, where: str, tree: yaml.Node | None = None
) -> ModelT:
    """Validate a mapping against a settings model; see :func:`load_settings`."""
    try:
        # JSON mode is strict about types but reads a list as a tuple, as YAML means it.
        return model.model_validate_json(json.dumps(content, default=str))
    except ValidationError as error:
        problems = [problem_in_words(problem, model, content, tree) for problem in error.errors()]
    noun = "problem" if len(problems) == 1 else "problems"
    raise ConfigError(
        f"{len(problems)} {noun}\n" + "\n".join(f"    {problem}" for problem in problems),
        where=where,
        next_step="Correct the keys above and run the command again.",
    )


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        found = "a folder" if path.is_dir() else "no such file"
    except UnicodeDecodeError:
        found = "the file is not UTF-8 text"
    except PermissionError:
        found = "the file may not be read by this user"
    raise ConfigError(
        found,
        expected="a readable YAML file",
        where=str(path),
        next_step="Check the path and the permissions.",
    )
