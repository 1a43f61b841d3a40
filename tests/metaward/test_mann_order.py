"""What an answer of the memory-augmented learner may know, and what must not matter to it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mann_cases import (
    BESIDE,
    BODY,
    SMALL,
    both_ways,
    followed_by,
    random_episode,
    random_sequence,
    theta_of,
)
from metaward.episodes import Examples
from metaward.learner_settings import MannSettings
from metaward.meta import mann
from metaward.meta.compose import build_learner
from metaward.theta import OWN

pytestmark = pytest.mark.usefixtures("one_thread")


def logits_of(sequence: Examples) -> torch.Tensor:
    return mann.read_sequences(BODY, theta_of(), [sequence], SMALL)[0][0]


@pytest.mark.parametrize("step", range(7))
def test_an_image_is_named_before_its_label_or_any_later_one_comes(step: int) -> None:
    sequence = random_sequence()
    labels = sequence.labels.clone()
    labels[step:] = (labels[step:] + 1) % 3
    images = sequence.images.clone()
    images[step + 1 :] += 1.0
    other = logits_of(Examples(images, labels, 3))
    assert torch.equal(other[: step + 1], logits_of(sequence)[: step + 1])
    if step < 6:  # and the step after it knows the label
        relabelled = logits_of(Examples(sequence.images, labels, 3))
        assert not torch.allclose(relabelled[step + 1], logits_of(sequence)[step + 1])


def answers(support: Examples, images: torch.Tensor, learner: MannSettings = SMALL) -> torch.Tensor:
    """Name images after a support set that is read in the order in which it is given."""
    theta = theta_of()
    _, read = mann.read_sequences(BODY, theta, [support], learner)
    return mann.name_next(BODY, theta, read, images[None], learner)[0]


def test_a_label_beside_its_image_is_seen_in_that_step_and_in_none_before() -> None:
    sequence, theta = random_sequence(), theta_of()
    labels = sequence.labels.clone()
    labels[3] = (labels[3] + 1) % 3
    one, other = (
        mann.read_sequences(BODY, theta, [Examples(sequence.images, said, 3)], BESIDE)[0][0]
        for said in (sequence.labels, labels)
    )
    assert torch.equal(one[:3], other[:3])
    assert not torch.allclose(one[3], other[3])


def test_a_query_after_labels_beside_their_images_is_told_nothing() -> None:
    _, read = mann.read_sequences(BODY, theta_of(), [random_sequence()], BESIDE)
    assert torch.equal(read.told, torch.zeros(1, 3, dtype=torch.float64))
    _, late = mann.read_sequences(BODY, theta_of(), [random_sequence()], SMALL)
    assert late.told.tolist() == [[0.0, 0.0, 1.0]]


@both_ways
def test_a_kept_memory_of_fewer_classes_than_slots_was_told_what_the_support_tells(
    learner: MannSettings,
) -> None:
    """The label that is still to be told is that of the last image read, in its own slot."""
    support, images = random_sequence((0, 1, 1, 0)), random_sequence(seed=4).images
    support = Examples(support.images, support.labels, 2)
    order = mann.reading_order(support)
    read_in_order = Examples(support.images[order], support.labels[order], 2)
    kept = build_learner(learner).adapt(BODY, theta_of(), support).kept
    assert kept["told"].shape == (1, 2)
    named = build_learner(learner).classifier(BODY, theta_of(), kept)(images)
    torch.testing.assert_close(named, answers(read_in_order, images, learner))


def test_a_query_is_the_next_step_of_the_support() -> None:
    episode = random_episode()
    named = answers(episode.support, episode.query.images)
    for row in range(3):
        after = logits_of(followed_by(episode.support, episode.query, row))[-1]
        torch.testing.assert_close(named[row], after, rtol=1e-12, atol=1e-12)


@both_ways
def test_an_answer_depends_on_no_other_query(
    monkeypatch: pytest.MonkeyPatch, learner: MannSettings
) -> None:
    classify = build_learner(learner).adapt(BODY, theta_of(), random_sequence())
    images = random_sequence(range(3), seed=4).images
    together = classify(images)
    torch.testing.assert_close(classify(images.flip(0)).flip(0), together, rtol=1e-12, atol=1e-12)
    alone = torch.cat([classify(image[None]) for image in images])
    torch.testing.assert_close(alone, together, rtol=1e-12, atol=1e-12)
    assert classify(images[:0]).shape == (0, 3)
    monkeypatch.setattr(mann, "QUERIES_AT_ONCE", 2)
    torch.testing.assert_close(classify(images), together, rtol=1e-12, atol=1e-12)


@both_ways
@settings(max_examples=15)
@given(order=st.permutations(range(7)))
def test_a_support_set_gives_the_same_answers_in_whatever_order_it_is_given(
    learner: MannSettings, order: list[int]
) -> None:
    support, query = random_sequence(), random_sequence(seed=4).images
    rows = torch.tensor(order)
    shuffled = Examples(support.images[rows], support.labels[rows], 3)
    adapt = build_learner(learner).adapt
    torch.testing.assert_close(
        adapt(BODY, theta_of(), shuffled)(query),
        adapt(BODY, theta_of(), support)(query),
        rtol=1e-12,
        atol=1e-12,
    )


def test_the_order_that_is_read_matters_so_it_is_not_the_one_that_is_given() -> None:
    support, query = random_sequence(), random_sequence(seed=4).images
    orders = [mann.reading_order(random_sequence(seed=seed)).tolist() for seed in range(20)]
    assert all(sorted(order) == list(range(7)) for order in orders)
    assert len({tuple(order) for order in orders}) > 15
    backwards = Examples(support.images.flip(0), support.labels.flip(0), 3)
    assert not torch.allclose(answers(support, query), answers(backwards, query), rtol=1e-3)


@both_ways
@settings(max_examples=10)
@given(new_number=st.permutations(range(3)))
def test_numbering_the_classes_anew_is_numbering_the_slots_anew(
    learner: MannSettings, new_number: list[int]
) -> None:
    """What a slot means is in the weights that read and write it, and nowhere else."""
    theta, sequence = theta_of(), random_sequence()
    other = Examples(sequence.images, torch.tensor(new_number)[sequence.labels], 3)
    moved = dict(theta)
    told = torch.tensor([2 + i for i in range(3)])
    for name in ("output.weight", "output.bias"):
        moved[OWN + name] = theta[OWN + name].clone()
        moved[OWN + name][new_number] = theta[OWN + name]
    moved[OWN + "controller.weight_ih"] = theta[OWN + "controller.weight_ih"].clone()
    moved[OWN + "controller.weight_ih"][:, told[new_number]] = theta[
        OWN + "controller.weight_ih"
    ][:, told]  # fmt: skip
    images = random_sequence(seed=4).images
    logits, read = mann.read_sequences(BODY, theta, [sequence], learner)
    renumbered, read_anew = mann.read_sequences(BODY, moved, [other], learner)
    torch.testing.assert_close(renumbered[0][:, new_number], logits[0], rtol=1e-9, atol=1e-9)
    named = mann.name_next(BODY, theta, read, images[None], learner)[0]
    named_anew = mann.name_next(BODY, moved, read_anew, images[None], learner)[0]
    torch.testing.assert_close(named_anew[:, new_number], named, rtol=1e-9, atol=1e-9)
