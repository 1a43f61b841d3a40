"""A coordinator whose study's step is too slow for clipped updates is told, and no other."""

import pytest

from metaward.privacy_promise import PrivacyPromise
from metaward.progress import RoundEvent
from metaward.study import (
    ADAM_FOR_SHORT,
    AdamSettings,
    MomentumSettings,
    OuterSettings,
    SgdSettings,
    Study,
    YogiSettings,
    suits_short,
)
from metaward_server.coordinator.advice import outer_step_advice

CLIPPED = PrivacyPromise("dp-sgd", 8.0, 1e-5, "add or remove one patient")
BLOCKS = PrivacyPromise("block", 8.0, 1e-5, "replace one patient")


def closed_round(*promises: PrivacyPromise) -> RoundEvent:
    said = {str(node): promise.to_settings() for node, promise in enumerate(promises)}
    return RoundEvent(
        0, 9, asked=4, admitted=3, refused={}, refused_nodes={}, delta_norm=0.5, promises=said
    )


def test_a_study_with_the_default_step_is_told_once_a_hospital_clips() -> None:
    said = outer_step_advice(Study(), [closed_round(BLOCKS), closed_round(BLOCKS, CLIPPED)])
    assert "dp-sgd" in said
    assert "outer: {name: adam, step_size: 0.01, tau: 1e-05}" in said


@pytest.mark.parametrize("promises", [(), (BLOCKS,), (PrivacyPromise(),)])
def test_where_nobody_clips_nothing_is_said(promises: tuple[PrivacyPromise, ...]) -> None:
    assert outer_step_advice(Study(), [closed_round(*promises)]) == ""


def test_a_study_that_takes_the_advice_is_not_told_again() -> None:
    assert outer_step_advice(Study(outer=ADAM_FOR_SHORT), [closed_round(CLIPPED)]) == ""


@pytest.mark.parametrize(
    ("outer", "suits"),
    [
        (SgdSettings(step_size=1.0), False),
        (SgdSettings(step_size=5.0), True),
        (MomentumSettings(step_size=1.0, momentum=0.9), True),
        (MomentumSettings(step_size=0.1, momentum=0.9), False),
        (AdamSettings(step_size=0.01, tau=1e-3), True),  # 5 times
        (AdamSettings(step_size=0.001, tau=1e-5), False),  # once
        (YogiSettings(step_size=0.01, tau=1e-5), True),
        (YogiSettings(), False),
    ],
)
def test_what_suits_is_a_matter_of_step_and_constant(outer: OuterSettings, suits: bool) -> None:
    assert suits_short(outer) is suits
