"""Keep a rate: no two requests closer together than asked for."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Clock:
    """Time, and a way to let it pass.

    Attributes:
        now: Seconds since some moment; never goes back.
        sleep: Waits for seconds.
    """

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


class Pace:
    """Spaces requests evenly, so that there is no burst after a pause either.

    Args:
        per_second: Requests per second at most.
        clock: What time it is.
    """

    def __init__(self, per_second: float, clock: Clock) -> None:
        self._gap = 1 / per_second
        self._clock = clock
        self._next = clock.now()
        self.requests = 0

    def wait(self) -> None:
        """Return when the next request may go out, and count it."""
        early = self._next - self._clock.now()
        if early > 0:
            self._clock.sleep(early)
        self._next = max(self._next, self._clock.now()) + self._gap
        self.requests += 1
