"""Every value of every message that leaves a site is one that was expected.

A site of DICOM files answers whole studies through its Flower app. What it sends is turned into
Flower's wire format and taken apart to its leaves; a leaf that is not expected fails.
"""

from collections.abc import Callable

import numpy as np
import pytest

from metaward.learner_settings import FedAvgSettings, LearnerSettings
from watched_hospital import (
    MECHANISMS,
    N_PARAMETERS,
    ROUNDS,
    Hospital,
    expected_update,
    learners,
    leaves,
    study_of,
    wire,
    without_envelope,
)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_of_a_whole_study_nothing_leaves_but_one_finite_delta_a_round(
    mechanism: str, hospital: Callable[[str], Hospital]
) -> None:
    site = hospital(mechanism)
    for number, learner in enumerate(learners(mechanism)[: 1 if mechanism != "none" else None]):
        study = study_of(learner, seed=number)
        for round_index in (*range(ROUNDS), ROUNDS - 1):  # the last is asked twice
            found = without_envelope(site.ask(study, round_index), round_index)
            arrays = {path: found.pop(path) for path in list(found) if path.endswith(".data")}
            assert found == expected_update(study, round_index, mechanism)
            [content] = arrays.values()
            assert len(content) == 4 * N_PARAMETERS
            assert np.isfinite(np.frombuffer(content, "<f4")).all()


@pytest.mark.parametrize(
    ("mechanism", "learner"),
    [(mechanism, learner) for mechanism in MECHANISMS for learner in learners(mechanism)],
    ids=lambda value: getattr(value, "name", value),
)
def test_every_learner_sends_the_same_kind_of_message(
    mechanism: str, learner: LearnerSettings, hospital: Callable[[str], Hospital]
) -> None:
    study = study_of(learner)
    found = without_envelope(hospital(mechanism).ask(study), 0)
    assert {path: v for path, v in found.items() if not path.endswith(".data")} == expected_update(
        study, 0, mechanism
    )


def test_the_walk_through_a_message_sees_what_does_not_belong_there(
    hospital: Callable[[str], Hospital],
) -> None:
    from flwr.app import ConfigRecord, MetricRecord

    reply = hospital("none").ask(study_of(FedAvgSettings(local_steps=1)))
    before = dict(leaves(wire(reply)))
    reply.content["metrics"] = MetricRecord({"loss": 0.5})
    config = reply.content["update"]
    assert isinstance(config, ConfigRecord)
    config["n-images"] = 24
    added = {path: v for path, v in leaves(wire(reply)) if before.get(path) != v}
    assert {"metrics", "loss", 0.5, "n-images", 24} <= set(added.values())
