"""A trouble is said once when it begins and once when it is over."""

import threading
import time
from collections.abc import Mapping

from metaward.watch import Watch


def test_a_trouble_is_said_when_it_begins_when_it_changes_and_when_it_is_over() -> None:
    found: list[Mapping[str, str]] = [
        {"disk": "disk: 7 MiB are free"},
        {"disk": "disk: 6 MiB are free"},  # the same with another number
        {"disk": "disk: full", "clock": "clock: 9 s behind"},
        {"clock": "clock: 8 s behind"},
        {},
    ]
    said: list[str] = []
    looks = iter(found)
    watch = Watch(lambda: next(looks), said.append)
    for _ in found:
        watch.look_once()
    assert said == [
        "disk: 7 MiB are free",
        "disk: full",
        "clock: 9 s behind",
        "disk: in order again",
        "clock: in order again",
    ]


def test_a_look_that_fails_is_said_and_is_not_the_last() -> None:
    said: list[str] = []
    looks = iter([FileNotFoundError("ca.crt"), None])

    def look() -> Mapping[str, str]:
        if error := next(looks):
            raise error
        return {}

    watch = Watch(look, said.append)
    watch.look_once()
    watch.look_once()
    assert said == ["watch: cannot look (ca.crt)", "watch: in order again"]


def test_what_a_look_finds_when_all_is_over_is_not_said() -> None:
    said: list[str] = []
    began, go_on, looked = threading.Event(), threading.Event(), threading.Event()

    def look() -> Mapping[str, str]:
        began.set()
        go_on.wait(60)
        looked.set()
        return {"disk": "disk: full"}

    with Watch(look, said.append) as watch:
        assert began.wait(60)
    go_on.set()
    assert looked.wait(60)
    watch._thread.join(60)
    assert said == []


def test_it_looks_at_once_and_again_when_it_is_called_and_ends_in_the_middle_of_a_look() -> None:
    looks, go_on = threading.Semaphore(0), threading.Event()

    def look() -> Mapping[str, str]:
        looks.release()
        go_on.wait(60)
        return {}

    with Watch(look, print) as watch:
        assert looks.acquire(timeout=60)  # at once
        go_on.set()
        time.sleep(0.05)
        go_on.clear()
        watch.look_now()
        assert looks.acquire(timeout=30)  # long before the pause is over
        began = time.monotonic()
    assert time.monotonic() - began < 30
    go_on.set()
