"""What a terminal can show: texts of other people, and signs that not every encoding has."""

import io
import sys
import unicodedata

from rich.console import Console

_CONTROLS_AND_HALVES = ("Cc", "Cs")
"""Unicode categories: control characters, and surrogates."""


def printable(text: str) -> str:
    r"""Return a text with escapes in the place of what would command the terminal, or break it.

    >>> printable("finding \x1b[31m")
    'finding \\x1b[31m'
    """
    return "".join(
        sign.encode("unicode_escape").decode()
        if unicodedata.category(sign) in _CONTROLS_AND_HALVES
        else sign
        for sign in text
    )


def either(console: Console, sign: str, plain: str) -> str:
    """Return a sign, or a plain word where the console's encoding may not have it."""
    return plain if console.options.ascii_only else sign


def let_stdout_replace() -> None:
    """Print a question mark for what the encoding does not have, instead of ending there."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
