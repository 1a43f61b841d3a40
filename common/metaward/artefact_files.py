"""Files of a model: read within bounds, whoever wrote them; written whole or not at all."""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import yaml

from metaward.errors import ConfigError

MAX_CARD_BYTES = 64 * 1024
"""A card is about 1 KiB."""
MAX_CARD_DEPTH = 16
"""Nesting of a card's YAML; ours is 3."""


def read_bounded(path: Path, *, limit: int, expected: str, next_step: str) -> bytes:
    """Return the content of a plain file that may come from anywhere.

    Args:
        path: The file.
        limit: Most bytes that are read.
        expected: For the message.
        next_step: Likewise.

    Raises:
        ConfigError: It is missing, no plain file, larger, or cannot be read.
    """
    found = ""
    if not path.is_file():  # also refuses a pipe or a device, which a read would wait for
        found = "no such file"
    elif path.stat().st_size > limit:
        found = f"{path.stat().st_size:,} bytes"
    if not found:
        try:
            with path.open("rb") as file:
                content = file.read(limit + 1)
        except OSError as error:
            found = f"the file cannot be read ({error.strerror})"
        else:
            if len(content) <= limit:
                return content
            found = f"more than {limit:,} bytes"
    raise ConfigError(found, expected=expected, where=str(path), next_step=next_step)


def refuse_tangled_yaml(content: bytes, path: Path, *, next_step: str) -> None:
    """Refuse aliases (which can expand without end) and deep nesting before they are built.

    Args:
        content: YAML text; what is none is let pass, for its reader to say where and what.
        path: Where it stands, for the message.
        next_step: For the message.

    Raises:
        ConfigError: It has anchors, aliases, or more than `MAX_CARD_DEPTH` levels.
    """
    depth = 0
    problem = ""
    try:
        for token in yaml.scan(content.decode()):
            if isinstance(token, yaml.AliasToken | yaml.AnchorToken):
                problem = "YAML anchors or aliases"
            elif isinstance(
                token,
                yaml.FlowSequenceStartToken
                | yaml.FlowMappingStartToken
                | yaml.BlockMappingStartToken
                | yaml.BlockSequenceStartToken,
            ):
                depth += 1
            elif isinstance(
                token, yaml.FlowSequenceEndToken | yaml.FlowMappingEndToken | yaml.BlockEndToken
            ):
                depth -= 1
            if depth > MAX_CARD_DEPTH:
                problem = f"YAML nested more than {MAX_CARD_DEPTH} deep"
            if problem:
                break
    except (yaml.YAMLError, UnicodeDecodeError):
        return
    if problem:
        raise ConfigError(
            problem, expected="a plain model card", where=str(path), next_step=next_step
        )


@contextlib.contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Give an empty sibling folder that takes the place of ``folder`` when all went well."""
    token = secrets.token_hex(4)
    fresh = folder.with_name(f".{folder.name}.{token}.new")
    fresh.mkdir()
    try:
        yield fresh
        old = folder.with_name(f".{folder.name}.{token}.old")
        if folder.exists():
            folder.rename(old)
        try:
            fresh.rename(folder)
        except BaseException:
            if old.exists():
                old.rename(folder)
            raise
        if old.exists():
            shutil.rmtree(old)
    finally:
        if fresh.exists():
            shutil.rmtree(fresh)


def write_durably(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Write a file that is on the disk when this returns.

    Args:
        path: The file.
        content: All of it.
        mode: Of a new file; the user's umask takes from it.
    """
    with open(path, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
