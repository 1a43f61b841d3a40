"""A coordinator whose study's step is too slow for clipped updates is told, and no other."""

from pathlib import Path

import pytest

from metaward.config import load_settings
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
from metaward_server.coordinator.advice import outer_step_advice, way_on

CLIPPED = PrivacyPromise("dp-sgd", 8.0, 1e-5, "add or remove one patient")
BLOCKS = PrivacyPromise("block", 8.0, 1e-5, "replace one patient")


def closed_round(*promises: PrivacyPromise) -> RoundEvent:
    said = {str(node): promise.to_settings() for node, promise in enumerate(promises)}
    return RoundEvent(
        0, 9, asked=4, admitted=3, refused={}, refused_nodes={}, delta_norm=0.5, promises=said
    )


def test_a_study_with_the_default_step_is_told_once_its_hospitals_clip() -> None:
    said = outer_step_advice(Study(), closed_round(CLIPPED, CLIPPED))
    assert "dp-sgd" in said
    assert "step_size: 0.001, tau: 0.001}" in said  # its own


def test_what_is_advised_can_be_put_into_a_study_s_file_and_is_not_advised_again(
    tmp_path: Path,
) -> None:
    said = outer_step_advice(Study(), closed_round(CLIPPED))
    (tmp_path / "study.yaml").write_text(said[said.rindex("outer: ") :])
    study = load_settings(tmp_path / "study.yaml", Study)
    assert study.outer == ADAM_FOR_SHORT
    assert outer_step_advice(study, closed_round(CLIPPED)) == ""


@pytest.mark.parametrize(
    "promises", [(), (BLOCKS,), (PrivacyPromise(),), (CLIPPED, BLOCKS), (CLIPPED, PrivacyPromise())]
)
def test_where_nobody_clips_or_not_all_nothing_is_said(
    promises: tuple[PrivacyPromise, ...],
) -> None:
    assert outer_step_advice(Study(), closed_round(*promises)) == ""


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


def test_a_study_whose_rounds_were_all_void_is_run_anew_and_one_with_rounds_left_resumed() -> None:
    study = Study(rounds=2)
    void = [RoundEvent(index, 2, asked=1, admitted=0, refused={}, refused_nodes={}, void=True)
            for index in range(2)]  # fmt: skip
    resume = "metaward server resume /srv/metaward study"
    assert way_on(study, void[:1], resume) == f"Mend it, then: {resume}"
    assert "anew under another name" in way_on(study, void, resume)
    assert resume not in way_on(study, void, resume)
