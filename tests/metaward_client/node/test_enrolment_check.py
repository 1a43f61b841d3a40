"""What Flower's own log says of whether the coordinator lets a node in."""

from pathlib import Path

import pytest

from metaward_client.node.enrolment_check import TAIL_BYTES, look_at_enrolment

REFUSED = "[code: 2004] Failed to activate SuperNode\n"
LET_IN = "INFO : SuperNode ID: 17\n"


@pytest.mark.parametrize(
    ("log", "states"),
    [
        ("", []),
        (LET_IN, ["ok"]),
        (REFUSED, ["wrong"]),
        (LET_IN + REFUSED, ["wrong"]),
        (REFUSED + LET_IN, ["ok"]),
        (REFUSED + LET_IN + "retrying\n" * TAIL_BYTES, []),
    ],
)
def test_a_node_that_is_not_let_in_says_so_until_it_is(
    tmp_path: Path, log: str, states: list[str]
) -> None:
    (tmp_path / "supernode.log").write_text(log)
    assert [one.state for one in look_at_enrolment(tmp_path)] == states


def test_of_a_node_that_has_not_begun_nothing_is_said(tmp_path: Path) -> None:
    assert list(look_at_enrolment(tmp_path)) == []
