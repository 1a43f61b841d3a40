"""What tests of several packages share: the tests' own modules, and one tiny simulated run."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.append(str(Path(__file__).parent))

from tiny_run import TinyRun, simulate_tiny

# No test asserts a time: by default an example that a busy machine delays by 200 ms fails its test.
settings.register_profile("metaward", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("metaward")


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """Run the tiny scenario once, with ``--json``; tests read it and change nothing in it."""
    return simulate_tiny(tmp_path_factory.mktemp("tiny") / "run", "--json")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute in one thread, as the workers do: on small networks two only wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
