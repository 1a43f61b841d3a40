"""Learning from noised answers alone: how many are asked for, where, and what comes of them."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from metaward.errors import ConfigError
from metaward.learner_settings import (
    FedAvgSettings,
    FomamlSettings,
    LearnerSettings,
    PrototypicalSettings,
    ReptileSettings,
)
from metaward.meta import noised
from metaward.meta.compose import build_noised_learner
from metaward.meta.head import Head
from metaward.meta.noised import (
    HEAD_SCALE,
    ClassSums,
    NoisedWork,
    drawn_classes,
    public_head,
)
from metaward.meta.parameters import Parameters
from metaward.meta.prototypical import fair_weights, noised_prototypes
from metaward.models.body import Body

LR = 0.25
LEARNERS: list[LearnerSettings] = [
    FedAvgSettings(local_lr=LR),
    ReptileSettings(inner_lr=LR, n_way=2),
    FomamlSettings(inner_lr=LR, n_way=2),
]
THETA = {"w": torch.tensor([1.0, -2.0, 4.0])}
TARGET = torch.tensor([3.0, 0.0, 0.0])


class ThreeFeatures(Body):
    """A body of one leaf; the oracle answers for it, so nobody ever runs it."""

    def __init__(self) -> None:
        super().__init__()
        self.features = 3


@dataclass
class Quadratic:
    """An oracle: the exact gradient of |w - TARGET|^2 / 2."""

    asked: list[tuple[torch.Tensor, Head, list[int]]] = field(default_factory=list)

    def gradient(
        self, at: Parameters, classes: Sequence[int], weights: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        assert weights is None
        self.asked.append((at.body["w"].clone(), at.head, list(classes)))
        return {"w": at.body["w"] - TARGET}

    def class_sums(self, theta: Mapping[str, torch.Tensor]) -> ClassSums:
        raise AssertionError(f"class sums were asked for, under {list(theta)}")


def work(oracle: Quadratic, steps: int = 3, n_labels: int = 3, seed: int = 0) -> NoisedWork:
    return NoisedWork(n_labels, steps, oracle, head_seed=4, rng=np.random.default_rng(seed))


def delta_of(settings: LearnerSettings, given: NoisedWork) -> torch.Tensor:
    return build_noised_learner(settings, given.steps).noised_delta(ThreeFeatures(), THETA, given)[
        "w"
    ]


@pytest.mark.parametrize("settings", LEARNERS, ids=lambda s: s.name)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_learner_takes_exactly_the_answers_that_are_paid_for(
    settings: LearnerSettings, steps: int
) -> None:
    oracle = Quadratic()
    delta_of(settings, work(oracle, steps))
    assert len(oracle.asked) == steps


@pytest.mark.parametrize("settings", LEARNERS[:2], ids=lambda s: s.name)
def test_fedavg_and_reptile_give_where_descent_leads_minus_theta(
    settings: LearnerSettings,
) -> None:
    # w - TARGET shrinks by 1 - LR at each step
    expected = ((1 - LR) ** 3 - 1) * (THETA["w"] - TARGET)
    torch.testing.assert_close(delta_of(settings, work(Quadratic())), expected)


def test_fomaml_gives_minus_the_gradient_where_the_other_answers_led() -> None:
    oracle = Quadratic()
    delta = delta_of(LEARNERS[2], work(oracle))
    torch.testing.assert_close(delta, -((1 - LR) ** 2) * (THETA["w"] - TARGET))
    torch.testing.assert_close(oracle.asked[-1][0] - TARGET, -delta)


def test_fomaml_with_one_answer_takes_the_gradient_at_theta() -> None:
    torch.testing.assert_close(delta_of(LEARNERS[2], work(Quadratic(), 1)), TARGET - THETA["w"])


@pytest.mark.parametrize("settings", LEARNERS, ids=lambda s: s.name)
def test_a_delta_points_downhill_and_theta_stays(settings: LearnerSettings) -> None:
    before = THETA["w"].clone()
    delta = delta_of(settings, work(Quadratic()))
    moved = THETA["w"] + 0.1 * delta
    assert (moved - TARGET).norm() < (THETA["w"] - TARGET).norm()
    assert torch.equal(THETA["w"], before)


@pytest.mark.parametrize("settings", LEARNERS, ids=lambda s: s.name)
def test_all_answers_of_a_round_are_about_one_task(settings: LearnerSettings) -> None:
    oracle = Quadratic()
    delta_of(settings, work(oracle, 4))
    classes = [asked[2] for asked in oracle.asked]
    assert all(each == classes[0] for each in classes)
    assert len(classes[0]) == (3 if settings.name == "fedavg" else 2)


@pytest.mark.parametrize("settings", LEARNERS, ids=lambda s: s.name)
def test_the_head_is_the_public_one_in_every_answer_and_never_comes_out(
    settings: LearnerSettings,
) -> None:
    oracle = Quadratic()
    delta = build_noised_learner(settings, 3).noised_delta(ThreeFeatures(), THETA, work(oracle, 3))
    assert delta.keys() == THETA.keys()
    assert len(oracle.asked) == 3
    for _, head, classes in oracle.asked:
        expected = public_head(3, classes, 3, 4)
        assert torch.equal(head.weight, expected.weight)
        assert torch.equal(head.bias, expected.bias)


def test_a_learner_is_given_no_data() -> None:
    for settings in (*LEARNERS, PrototypicalSettings()):
        learner = build_noised_learner(settings, 2)
        hints = inspect.get_annotations(type(learner).noised_delta, eval_str=True)
        assert list(hints) == ["body", "theta", "work", "return"]
    assert set(NoisedWork.__annotations__) == {
        "n_labels", "steps", "answers", "head_seed", "rng",
    }  # fmt: skip
    imported = {getattr(value, "__module__", "") for value in vars(noised).values()}
    assert not {"metaward.tasks", "metaward.episodes"} & imported


def test_a_prototypical_network_needs_two_answers() -> None:
    with pytest.raises(ConfigError, match=r"prototypical with 1 noised sum.*at least 2"):
        build_noised_learner(PrototypicalSettings(), 1)


@dataclass
class Counted:
    """An oracle of known class sums, and of gradients that are 1, 2, 3 ..."""

    sums: ClassSums
    asked: list[tuple[Parameters, list[int], torch.Tensor]] = field(default_factory=list)
    summed: list[torch.Tensor] = field(default_factory=list)

    def class_sums(self, theta: Mapping[str, torch.Tensor]) -> ClassSums:
        self.summed.append(theta["w"].clone())
        return self.sums

    def gradient(
        self, at: Parameters, classes: Sequence[int], weights: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        assert weights is not None
        self.asked.append((at, list(classes), weights))
        return {"w": torch.full((3,), float(len(self.asked)))}


SUMS = ClassSums(
    features=torch.tensor([[1.2, 0.0, 0.6], [0.0, 0.2, 0.0]]), patients=torch.tensor([0.6, 0.2])
)


def test_a_prototypical_network_asks_once_for_sums_and_then_for_gradients() -> None:
    """Prototypes (2, 0, 1) and (0, 1, 0); 0.6 and 0.2 of an equal 0.4 weigh 2/3 and 1.

    Head by hand, with 1/sqrt(3) = s: weight 2 s c, bias -s |c|^2. The gradients 1, 2 and 3 have the
    mean 2, and the delta is minus that.
    """
    oracle = Counted(SUMS)
    asked = NoisedWork(2, 4, oracle, 4, np.random.default_rng(0))
    delta = build_noised_learner(PrototypicalSettings(), 4).noised_delta(
        ThreeFeatures(), THETA, asked
    )
    assert len(oracle.summed) == 1
    assert len(oracle.asked) == 3
    torch.testing.assert_close(delta["w"], torch.full((3,), -2.0))
    s = 3**-0.5
    for at, classes, weights in oracle.asked:
        assert torch.equal(at.body["w"], THETA["w"])
        assert classes == [0, 1]
        torch.testing.assert_close(weights, torch.tensor([2 / 3, 1.0]))
        expected = torch.tensor([[4.0 * s, 0.0, 2.0 * s], [0.0, 2.0 * s, 0.0]])
        torch.testing.assert_close(at.head.weight, expected)
        torch.testing.assert_close(at.head.bias, torch.tensor([-5.0 * s, -s]))


@given(st.lists(st.floats(-10, 10, width=32), min_size=2, max_size=9))
def test_weights_and_prototypes_are_sound_whatever_noise_makes_of_the_counts(
    counts: list[float],
) -> None:
    sums = ClassSums(torch.ones(len(counts), 3), torch.tensor(counts))
    weights = fair_weights(sums)
    assert ((weights >= 0) & (weights <= 1)).all()
    assert torch.isfinite(noised_prototypes(sums)).all()


def test_no_label_has_more_than_an_equal_part_of_the_weight() -> None:
    patients = torch.tensor([0.7, 0.2, 0.1])
    parts = fair_weights(ClassSums(torch.zeros(3, 1), patients)) * patients
    torch.testing.assert_close(parts, torch.tensor([1 / 3, 0.2, 0.1]))


@pytest.mark.parametrize("n_labels", [2, 3, 7])
def test_the_first_head_is_a_simplex_equally_long_and_equally_far_apart(n_labels: int) -> None:
    rows = public_head(16, range(n_labels), n_labels, seed=3).weight.double() / HEAD_SCALE
    cosines = rows @ rows.T
    expected = torch.full((n_labels, n_labels), -1 / (n_labels - 1), dtype=torch.float64)
    expected.fill_diagonal_(1.0)
    torch.testing.assert_close(cosines, expected, atol=1e-5, rtol=0)


def test_with_more_labels_than_features_the_rows_are_still_equally_long() -> None:
    head = public_head(4, range(9), 9, seed=3)
    torch.testing.assert_close(head.weight.norm(dim=1), torch.full((9,), HEAD_SCALE))
    assert len({tuple(row.tolist()) for row in head.weight}) == 9
    assert not head.bias.any()


def test_the_first_head_depends_on_seed_and_label_alone() -> None:
    every, some = public_head(8, range(5), 5, 1), public_head(8, [3, 1], 5, 1)
    assert torch.equal(some.weight, every.weight[[3, 1]])
    assert torch.equal(public_head(8, range(5), 5, 1).weight, every.weight)
    assert not torch.equal(public_head(8, range(5), 5, 2).weight, every.weight)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    public_head(8, range(5), 5, 1)
    assert torch.equal(torch.get_rng_state(), before)


def test_classes_come_from_the_public_generator_alone() -> None:
    def draw(seed: int) -> list[int]:
        return drawn_classes(9, 3, np.random.default_rng(seed))

    assert draw(1) == draw(1) == sorted(draw(1))
    assert len({tuple(draw(seed)) for seed in range(20)}) > 5
    assert drawn_classes(3, 5, np.random.default_rng(0)) == [0, 1, 2]
    seen = {label for seed in range(50) for label in draw(seed)}
    assert seen == set(range(9))
