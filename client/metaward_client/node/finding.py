"""What a look at one thing found: a line of the pre-flight, a sentence of a running node."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One line.

    Attributes:
        name: What was looked at.
        state: ``ok``, ``warn`` (it works, but somebody should know), or ``wrong``.
        said: What was found.
        next_step: For ``warn`` and ``wrong``.
        exit_code: Of the command, where this is wrong.
    """

    name: str
    state: str
    said: str
    next_step: str = ""
    exit_code: int = 2

    @property
    def sentence(self) -> str:
        """What was found and what to do, in one line."""
        return f"{self.name}: {self.said}. {self.next_step}".strip()
