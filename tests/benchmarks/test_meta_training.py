"""How the ratios of a meta-batch come from what was taken in each turn."""

import pytest

from bench_meta_training import compared


def test_a_ratio_is_of_one_turn_and_the_best_peer_is_the_one_with_the_least() -> None:
    """The second turn was disturbed, and is for nobody's good."""
    found = compared(
        {
            "metaward": [1.0, 4.0, 1.0, 1.0],
            "by hand": [3.0, 12.0, 3.0, 3.5],
            "higher": [2.0, 8.0, 2.0, 2.0],
        }
    )
    assert found["best_peer"] == "higher"
    assert (found["ratio"], found["quartiles"]) == (2.0, [2.0, 2.0])
    assert found["cpu_seconds"] == {"metaward": 1.0, "by hand": 3.25, "higher": 2.0}


def test_quartiles_say_how_far_the_turns_lie_apart() -> None:
    found = compared({"metaward": [1.0] * 3, "by hand": [1.0, 2.0, 3.0]})
    assert found["ratio"] == 2.0
    assert found["quartiles"] == pytest.approx([1.0, 3.0])
