"""More hospitals than a shell lets a process open files."""

import resource
import subprocess
import sys

from few_open_files import at_most_open
from metaward_sim.open_files import BESIDES, allow_open_files


def test_the_limit_is_raised_to_what_the_hospitals_need() -> None:
    with at_most_open(BESIDES):
        allow_open_files(300)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 300 + BESIDES


def test_a_limit_that_suffices_stays_as_it_is() -> None:
    with at_most_open(3 * BESIDES):
        allow_open_files(BESIDES)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 3 * BESIDES


def test_who_may_not_open_so_many_files_is_told_in_a_sentence() -> None:
    script = (
        "import resource\n"
        "from metaward.errors import ConfigError\n"
        "from metaward_sim.open_files import allow_open_files\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({BESIDES}, {BESIDES}))\n"
        "try:\n    allow_open_files(300)\nexcept ConfigError as error:\n    print(error)\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    assert f"300 hospitals, and at most {BESIDES} open files" in said
    assert f"a limit of {300 + BESIDES}" in said
    assert "Take fewer hospitals, or have the limit raised" in said
