"""The one tree of errors that a user may see.

Every error says four things: what was found, what was expected, where, and what to do next.
Patient data (identifiers, paths of images, UIDs, pixel values) never goes into any of them.
"""

from typing import ClassVar


class MetawardError(Exception):
    """A mistake or a failure that a user can act on.

    Args:
        found: What was found, as a clause: ``"4 patients with this label"``.
        expected: What was expected instead, as a clause.
        where: The file, key, row number, site or round it concerns.
        next_step: What the reader should do now, as an imperative sentence.
    """

    exit_code: ClassVar[int] = 1
    title: ClassVar[str] = "Error"

    def __init__(
        self, found: str, *, expected: str = "", where: str = "", next_step: str = ""
    ) -> None:
        self.found = found
        self.expected = expected
        self.where = where
        self.next_step = next_step
        super().__init__(self._sentence())

    def _sentence(self) -> str:
        parts = [f"{self.where}: {self.found}" if self.where else self.found]
        if self.expected:
            parts.append(f"expected {self.expected}")
        if self.next_step:
            parts.append(self.next_step)
        return "; ".join(parts)

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the four fields when the error crosses a process boundary."""
        return (_rebuild, (type(self), self.found, self.expected, self.where, self.next_step))


def _rebuild(
    kind: type[MetawardError], found: str, expected: str, where: str, next_step: str
) -> MetawardError:
    return kind(found, expected=expected, where=where, next_step=next_step)


class ConfigError(MetawardError):
    """A command line, a configuration file or a combination of settings is wrong."""

    exit_code = 2
    title = "Configuration"


class DataError(MetawardError):
    """A site's data cannot be used as asked."""

    exit_code = 3
    title = "Data"


class PrivacyError(MetawardError):
    """A privacy rule forbids the step; nothing left the site."""

    exit_code = 4
    title = "Privacy"


class FederationError(MetawardError):
    """The federation could not do its work: too few sites, a lost connection, a dead worker."""

    exit_code = 5
    title = "Federation"


class ProtocolError(FederationError):
    """A message does not follow the wire format: version, round, names, shapes, values."""

    title = "Protocol"
