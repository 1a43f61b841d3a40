"""Numbers as a reader sees them: per cent, points, seconds."""

from metaward.report.schema import Interval

NOT_MEASURED = "not measured"
MINUS = "\N{MINUS SIGN}"


def percent(share: float | None, digits: int = 1) -> str:
    """Return a share as per cent, without the sign.

    >>> percent(0.7123)
    '71.2'
    """
    return NOT_MEASURED if share is None else f"{100 * share:.{digits}f}"


def percent_interval(ci95: Interval | None, digits: int = 1) -> str:
    """Return both ends of an interval as per cent.

    >>> percent_interval((0.67, 0.75), 0)
    '67 to 75'
    """
    return "unknown" if ci95 is None else " to ".join(percent(end, digits) for end in ci95)


def percent_with_interval(share: float | None, ci95: Interval | None, digits: int = 1) -> str:
    """Return a share with its interval.

    >>> percent_with_interval(0.712, (0.67, 0.75))
    '71.2 (67.0 to 75.0)'
    """
    if share is None:
        return NOT_MEASURED
    return f"{percent(share, digits)} ({percent_interval(ci95, digits)})"


def points(difference: float, digits: int = 1) -> str:
    """Return a difference of shares in percentage points, with its sign.

    >>> points(0.021), points(-0.021) == MINUS + "2.1"
    ('+2.1', True)
    """
    text = f"{100 * difference:+.{digits}f}"
    return text.replace("-", MINUS) if float(text) else f"{0:.{digits}f}"


def points_interval(ci95: Interval | None, digits: int = 1) -> str:
    """Return both ends of an interval in percentage points."""
    return "unknown" if ci95 is None else " to ".join(points(end, digits) for end in ci95)


def points_with_interval(difference: float | None, ci95: Interval | None, digits: int = 1) -> str:
    """Return a difference with its interval.

    >>> points_with_interval(0.16, (0.12, 0.2), 0)
    '+16 (+12 to +20)'
    """
    if difference is None:
        return NOT_MEASURED
    return f"{points(difference, digits)} ({points_interval(ci95, digits)})"


def seconds(duration: float) -> str:
    """Return a duration in the unit that suits it.

    >>> seconds(0.034), seconds(2.5), seconds(175.0)
    ('34 ms', '2.5 s', '2 min 55 s')
    """
    if duration < 0.001:
        return "under 1 ms"
    if duration < 1.0:
        return f"{1000 * duration:.0f} ms"
    if duration < 60.0:
        return f"{duration:.1f} s"
    minutes, rest = divmod(round(duration), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def counted(number: int, noun: str) -> str:
    """Return a count with its noun.

    >>> counted(1, "hospital"), counted(12_500, "image")
    ('1 hospital', '12,500 images')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
