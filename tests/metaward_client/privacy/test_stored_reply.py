"""An answered round on the site's disk."""

import numpy as np
import pytest

from metaward.errors import PrivacyError
from metaward_client.privacy.stored_reply import CLOSED, decode_reply, encode_reply

DELTA = {"w": np.float32([[1.5, -0.0], [1e-40, 3e38]]), "b": np.float32([2.0])}


def test_a_delta_comes_back_to_the_bit_in_thetas_order() -> None:
    back = decode_reply(encode_reply(DELTA), {"b": DELTA["b"] * 0, "w": DELTA["w"] * 0})
    assert list(back) == ["b", "w"]
    assert all(back[name].tobytes() == DELTA[name].tobytes() for name in DELTA)
    assert {leaf.dtype for leaf in back.values()} == {np.dtype(np.float32)}


def test_equal_deltas_give_equal_bytes() -> None:
    turned = {name: np.asfortranarray(leaf) for name, leaf in DELTA.items()}
    assert encode_reply(turned) == encode_reply(DELTA)


@pytest.mark.parametrize("theta", [
    {"w": np.zeros((2, 2), np.float32)},
    {**DELTA, "more": np.zeros(1, np.float32)},
    {**DELTA, "w": np.zeros(4, np.float32)},
])  # fmt: skip
def test_an_answer_for_another_model_is_refused(theta: dict[str, np.ndarray]) -> None:
    with pytest.raises(PrivacyError, match="another model"):
        decode_reply(encode_reply(DELTA), theta)


def test_a_closed_round_gives_no_answer() -> None:
    with pytest.raises(PrivacyError, match="closed without an answer"):
        decode_reply(CLOSED, DELTA)
