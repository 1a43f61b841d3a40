"""Jobs for the tests of the worker pool: workers import them by name."""

import os
import time

from metaward.errors import DataError


class UnpicklableError(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(one + two)  # rebuilt with one argument, and fails


def sleep_and_tell(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def torch_threads() -> int:
    import torch

    return torch.get_num_threads()


def refuse() -> None:
    raise DataError("2 patients", expected="3 patients", where="site a", next_step="Label more.")


def raise_unpicklable() -> None:
    raise UnpicklableError(1, 2)


def kill_myself(with_signal: int) -> None:
    os.kill(os.getpid(), with_signal)
    time.sleep(5)
