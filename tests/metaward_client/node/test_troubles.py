"""What a running node says of Flower's own log."""

from pathlib import Path

import pytest

from metaward_client.node.troubles import TAIL_BYTES, _refused

REFUSED = "[code: 2004] Failed to activate SuperNode\n"
LET_IN = "INFO : SuperNode ID: 17\n"


@pytest.mark.parametrize(
    ("log", "refused"),
    [
        ("", False),
        (LET_IN, False),
        (REFUSED, True),
        (LET_IN + REFUSED, True),
        (REFUSED + LET_IN, False),
        (REFUSED + LET_IN + "retrying\n" * TAIL_BYTES, False),
    ],
)
def test_a_node_that_is_not_let_in_says_so_until_it_is(
    tmp_path: Path, log: str, refused: bool
) -> None:
    path = tmp_path / "supernode.log"
    path.write_text(log)
    assert [one.state for one in _refused(path)] == ["wrong"] * refused


def test_a_node_that_has_not_begun_has_no_trouble(tmp_path: Path) -> None:
    assert list(_refused(tmp_path / "supernode.log")) == []
