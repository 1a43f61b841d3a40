"""What a hospital says of its policy: only what this release can mean, and no more than is true."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaward.errors import ProtocolError
from metaward.privacy_promise import (
    ADD_OR_REMOVE_ONE,
    BLOCK,
    DP_SGD,
    NO_PROMISE,
    REPLACE_ONE,
    PrivacyPromise,
)
from metaward.privacy_statement import PrivacyStatement, joint_statement
from metaward.wire import RecordsError, Update, decode_update, encode_update
from metaward.wire_arrays import spec_of
from metaward_client.privacy.terms import Relation

NORTH = PrivacyPromise(DP_SGD, 8.0, 1e-5, ADD_OR_REMOVE_ONE)
SOUTH = PrivacyPromise(BLOCK, 3.0, 1e-4, REPLACE_ONE)

promises = st.one_of(
    st.just(NO_PROMISE),
    st.builds(
        PrivacyPromise,
        st.sampled_from([DP_SGD, BLOCK]),
        st.floats(min_value=1e-6, max_value=1e6),
        st.floats(min_value=1e-12, max_value=0.5),
        st.sampled_from([ADD_OR_REMOVE_ONE, REPLACE_ONE]),
    ),
)


@given(promises)
def test_a_promise_arrives_as_it_was_sent(promise: PrivacyPromise) -> None:
    update = Update("d", 0, {}, promise)
    assert decode_update(encode_update(update), spec_of({})).promise == promise


def test_the_relations_are_those_of_the_ledger() -> None:
    assert {one.value for one in Relation} == {ADD_OR_REMOVE_ONE, REPLACE_ONE}


@pytest.mark.parametrize(
    "change",
    [
        {"mechanism": "gaussian"},
        {"mechanism": ["dp-sgd"]},
        {"mechanism": "none"},
        {"neighbouring": "add or remove one image"},
        {"target-epsilon": 0.0},
        {"target-epsilon": math.inf},
        {"target-epsilon": math.nan},
        {"target-epsilon": 8},
        {"target-epsilon": "8"},
        {"target-delta": 0.0},
        {"target-delta": 1.0},
        {"target-delta": math.nan},
        {"n-patients": 812},
        {"mechanism": None},
    ],
)
def test_any_other_promise_makes_the_update_unreadable(change: dict[str, Any]) -> None:
    content = encode_update(Update("d", 0, {}, NORTH))
    header = content.config_records["update"]
    for key, value in change.items():
        if value is None:
            del header[key]
        else:
            header[key] = value
    with pytest.raises(RecordsError) as caught:
        decode_update(content, {})
    assert not any(str(value) in str(caught.value) for value in change.values())


def test_an_update_that_says_nothing_of_privacy_is_unreadable() -> None:
    content = encode_update(Update("d", 0, {}))
    del content.config_records["update"]["mechanism"]
    with pytest.raises(ProtocolError):
        decode_update(content, {})


def test_a_model_is_as_private_as_the_hospital_that_promises_least() -> None:
    joint = joint_statement([NORTH, SOUTH, NORTH])
    assert joint.is_private
    assert (joint.epsilon, joint.target_delta) == (8.0, 1e-4)
    assert joint.neighbouring == f"{ADD_OR_REMOVE_ONE} or {REPLACE_ONE}"
    assert joint.sentence.startswith(
        "Per patient, epsilon 8.00 at delta 1.0e-04 at most, at every hospital"
    )
    assert "as the hospitals say" in joint.sentence


@pytest.mark.parametrize("of_hospitals", [[], [NO_PROMISE], [NORTH, NO_PROMISE, SOUTH]])
def test_one_hospital_without_a_mechanism_makes_it_not_private(
    of_hospitals: list[PrivacyPromise],
) -> None:
    joint = joint_statement(of_hospitals)
    assert not joint.is_private
    assert "NOT PRIVATE" in joint.sentence
    assert joint.epsilon is None


def test_a_statement_without_a_mechanism_is_not_private() -> None:
    assert not PrivacyStatement().is_private
    assert PrivacyStatement(mechanism="dp-sgd", unit="patient", epsilon=3.0).is_private
