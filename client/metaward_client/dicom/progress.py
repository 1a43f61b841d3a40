"""How long work tells whoever watches how far it is."""

from collections.abc import Callable
from typing import TypeAlias

OnProgress: TypeAlias = Callable[[str, int, int], None]
"""Called with a stage (``"headers"`` or ``"pixels"``), files done, files in all."""


def no_progress(stage: str, done: int, total: int) -> None:
    """Watch nothing."""
