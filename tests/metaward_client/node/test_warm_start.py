"""The process that starts rounds fast, as `metaward site start` runs it."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

WAIT_S = 60.0


@pytest.fixture
def temporary() -> Iterator[Path]:
    """Give a folder with a short path, as a socket's has to be."""
    with TemporaryDirectory(prefix="warm-") as name:
        yield Path(name)


def test_a_warm_start_that_is_ended_leaves_nothing_in_the_temporary_folder(
    temporary: Path, tmp_path: Path
) -> None:
    own, log = temporary / "own", tmp_path / "log"
    own.mkdir()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "metaward_client.node.warm_start", str(temporary / "warm")],
            env=os.environ | {"TMPDIR": str(own)},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    deadline = time.monotonic() + WAIT_S
    try:
        while not (temporary / "warm").exists():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        process.terminate()
        assert process.wait(WAIT_S) == -signal.SIGTERM
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the fork server too, as `Services` does
    assert list(own.iterdir()) == []
