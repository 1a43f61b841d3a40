"""Says what is wrong while something runs: once when it begins, once when it is over.

A process that waits, or that fails again and again, does so in a log of its own. Who started it
looks at the console, and so does the journal of systemd: there stands the reason, in one sentence.
"""

import re
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from metaward.errors import MetawardError

LOOK_S = 60.0
"""Pause between two looks, where nothing calls for one."""

Look = Callable[[], Mapping[str, str]]
"""Gives what is wrong now: a name for each trouble, which stays, and its sentence."""


class Watch:
    """Looks again and again, in a thread, until the ``with`` block ends.

    Args:
        look: May take seconds.
        say: Told one line for people.
    """

    def __init__(self, look: Look, say: Callable[[str], None]) -> None:
        self._look = look
        self._say = say
        self._wrong: Mapping[str, str] = {}
        self._call = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        """Begin with a look at once."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End without waiting for a look that is under way."""
        self._over.set()
        self._call.set()

    def look_now(self) -> None:
        """Have the next look at once: something has happened."""
        self._call.set()

    def look_once(self) -> None:
        """Look, and say what is new and what is over; nothing more once the block has ended."""
        try:
            found = self._look()
        except (OSError, MetawardError) as error:  # a file that it reads is gone, perhaps for now
            found = {"watch": f"watch: cannot look ({error})"}
        if self._over.is_set():
            return
        for name, sentence in found.items():
            if _kind(sentence) != _kind(self._wrong.get(name, "")):
                self._say(sentence)
        for name in self._wrong:
            if name not in found:
                self._say(f"{name}: in order again")
        self._wrong = found

    def _run(self) -> None:
        while not self._over.is_set():
            self._call.clear()
            self.look_once()
            self._call.wait(LOOK_S)


def _kind(sentence: str) -> str:
    """Return what stays the same where only a number has changed.

    >>> _kind("clock: 61 s behind") == _kind("clock: 7 s behind")
    True
    """
    return re.sub(r"[0-9]+", "#", sentence)
