import pytest

from faulty_pacs import FakeClock
from metaward_client.pacs.pace import Pace


def test_requests_are_spaced_evenly_and_counted() -> None:
    time = FakeClock()
    pace, moments = Pace(4.0, time.clock()), []
    for _ in range(5):
        pace.wait()
        moments.append(time.time)
    assert moments == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert pace.requests == 5


def test_a_pause_earns_no_burst() -> None:
    time = FakeClock()
    pace, moments = Pace(10.0, time.clock()), []
    pace.wait()
    time.time = 100.0
    for _ in range(3):
        pace.wait()
        moments.append(time.time)
    assert moments == pytest.approx([100.0, 100.1, 100.2])


def test_a_request_that_takes_longer_than_the_gap_waits_for_nothing_more() -> None:
    time = FakeClock()
    pace = Pace(10.0, time.clock())
    for _ in range(3):
        pace.wait()
        time.time += 0.5
    assert time.slept == []
