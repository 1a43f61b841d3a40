"""The federated table: what clients hold, what they are asked, and the script from end to end."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_omniglot import MODEL, PROTOTYPICAL, InThisProcess, a_training

import federated_table
from clients_table import clients_table
from metaward.arrays import to_arrays
from metaward.errors import DataError
from metaward.models.build import build_body
from metaward.tasks import Task
from omniglot import jobs
from omniglot.characters import Characters
from omniglot.clients import client_episode, drawn_clients, federation, some_clients
from omniglot.federated_lines import lines_of
from omniglot.federated_rows import BASELINE, SHOTS, Answer, FederatedPlan, plans
from omniglot.scoring import client_accuracies

pytestmark = pytest.mark.usefixtures("one_thread")


def characters(n_characters: int, n_drawers: int = 4) -> Characters:
    """Return drawings of one grey each, by which a drawing is known again."""
    grey = np.arange(n_characters * n_drawers, dtype=np.uint8).reshape(n_characters, n_drawers)
    images = np.broadcast_to(grey[:, :, None, None], (*grey.shape, 28, 28))
    return Characters(images, tuple(map(str, range(n_characters))), n_characters)


def drawings(client: Task) -> set[int]:
    return set(np.rint(255 * client.images[:, 0, 0, 0]).astype(int).tolist())


# --- clients --------------------------------------------------------------------------------------


def test_clients_hold_two_to_five_characters_that_no_other_client_holds() -> None:
    training, validation, new = federation(characters(60), 40, training=5, validation=3, new=4)
    clients = [*training, *validation, *new]
    assert [len(kind) for kind in (training, validation, new)] == [5, 3, 4]
    assert {len(client.label_names) for client in clients} <= {2, 3, 4, 5}
    held = [drawings(client) for client in clients]
    assert all(
        len(of_one) == 4 * len(c.label_names) for of_one, c in zip(held, clients, strict=True)
    )
    assert sum(map(len, held)) == len(set.union(*held))
    assert all(max(drawings(client)) < 4 * 40 for client in (*training, *validation))
    assert all(min(drawings(client)) >= 4 * 40 for client in new)


def test_clients_hold_as_many_characters_as_each_other_number_equally_often() -> None:
    clients = drawn_clients(np.zeros((1700, 1, 28, 28), np.uint8), 400, seed=0)
    counts = np.bincount([len(client.label_names) for client in clients])
    assert counts[:2].sum() == 0
    assert counts[2:] == pytest.approx([100] * 4, abs=35)  # four standard deviations


def test_more_clients_than_there_are_characters_for_are_refused() -> None:
    with pytest.raises(DataError, match="60 characters"):
        drawn_clients(characters(60).images, 40, seed=0)


def test_a_rounds_clients_are_different_ones_and_each_comes_in_its_turn() -> None:
    clients = drawn_clients(characters(60).images, 6, seed=0)
    source = some_clients(clients)
    rounds = [list(source(np.random.default_rng(number))) for number in range(30)]
    for drawn in rounds:
        assert {client.site for client in drawn} == {client.site for client in clients}
    assert len({drawn[0].site for drawn in rounds}) == 6


@given(st.integers(2, 5), st.integers(1, 3), st.integers(0, 5))
def test_an_episode_asks_for_all_characters_from_drawings_it_has_not_shown(
    n_way: int, n_shot: int, number: int
) -> None:
    client = drawn_clients(characters(60).images, 8, seed=n_way)[n_way]
    episode = client_episode(client, n_shot, 4 - n_shot, seed=(1, number))
    ways = len(client.label_names)
    assert episode.support.n_way == episode.query.n_way == ways
    assert episode.support.labels.bincount().tolist() == [n_shot] * ways
    assert episode.query.labels.bincount().tolist() == [4 - n_shot] * ways


def test_support_and_query_share_no_drawing() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (10, 6, 28, 28)).astype(np.uint8)
    for client in drawn_clients(images, 2, seed=0):
        episode = client_episode(client, 2, 4, seed=(0,))
        support = {image.numpy().tobytes() for image in episode.support.images}
        query = {image.numpy().tobytes() for image in episode.query.images}
        ways = len(client.label_names)
        assert (len(support), len(query)) == (2 * ways, 4 * ways)
        assert not support & query


@pytest.mark.parametrize(("alike", "low", "high"), [(True, 1.0, 1.0), (False, 0.1, 0.6)])
def test_a_clients_accuracy_is_the_share_of_right_answers(
    alike: bool, low: float, high: float
) -> None:
    """All drawings of a character alike: all are right. None like another: guessing."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 1 if alike else 8, 28, 28)).astype(np.uint8)
    clients = drawn_clients(np.repeat(images, 8 if alike else 1, axis=1), 5, seed=0)
    theta = to_arrays(build_body(MODEL, 0).initial_parameters())
    found = client_accuracies(MODEL, PROTOTYPICAL, theta, clients, 1, episodes=8, n_query=4)
    assert len(found) == 5
    assert low <= np.mean(found) <= high


# --- rows and lines -------------------------------------------------------------------------------


def test_every_row_answers_at_every_shot_once_and_fedavg_with_either_server() -> None:
    cells = [(a.title, shots) for plan in plans() for a in plan.answers for shots in plan.shots]
    assert len(cells) == len(set(cells))
    titles = {title for title, _ in cells}
    assert {"FedAvg", "FedAvg + fine-tune", "FedAdam", BASELINE} < titles
    assert set(cells) == {(title, shots) for title in titles for shots in SHOTS}


def test_all_rows_have_as_many_rounds_of_as_many_clients() -> None:
    trainings = [plan.training for plan in plans()]
    assert len({(t.study.rounds, t.meta_batch, t.study.seed) for t in trainings}) == 1
    for training in trainings:
        learner = training.study.learner.model_dump()
        assert learner.get("augment", "none") == "none"


@pytest.mark.parametrize("plan", plans(), ids=lambda plan: f"{plan.name}-{plan.shots}")
def test_in_a_round_a_client_looks_at_about_as_many_drawings(plan: FederatedPlan) -> None:
    learner, characters = plan.training.study.learner.model_dump(), (2 + 3 + 4 + 5) / 4
    if "n_query" in learner:
        drawings = learner["episodes"] * characters * (learner["n_shot"] + learner["n_query"])
    else:
        steps = learner.get("inner_steps") or learner["local_steps"]
        drawings = steps * (learner.get("inner_batch") or learner["batch_size"])
    assert 60 <= drawings <= 70


def a_plan(name: str, titles: tuple[str, ...]) -> FederatedPlan:
    answers = tuple(Answer(title, PROTOTYPICAL) for title in titles)
    return FederatedPlan(name, a_training(PROTOTYPICAL, steps=2), (1,), answers)


def a_result(plan: str, seed: int, accuracies: dict[str, list[float]]) -> dict[str, Any]:
    return {
        "plan": plan,
        "seed": seed,
        "steps": 2,
        "cpu_s": 1.0 + seed,
        "training": a_training(steps=2).model_dump(mode="json"),
        "accuracies": {title: {"1": found} for title, found in accuracies.items()},
    }


def test_a_gain_is_paired_by_client() -> None:
    # Clients differ by 60 points; ours is 10, 20 and 30 points better: 20, sd 10, reach 11.32.
    chosen = [a_plan("ours", ("Ours",)), a_plan("fedadam", (BASELINE,))]
    results = [
        a_result("ours", 0, {"Ours": [0.4, 0.8, 0.8]}),
        a_result("ours", 1, {"Ours": [0.4, 0.6, 1.0]}),
        a_result("fedadam", 0, {BASELINE: [0.3, 0.5, 0.6]}),
        a_result("fedadam", 1, {BASELINE: [0.3, 0.5, 0.6]}),
    ]
    ours, baseline = lines_of(chosen, results)
    assert ours["gain"] == {"accuracy": 20.0, "reach": 11.32}
    assert (ours["accuracy"], ours["by_seed"], ours["clients"]) == (66.67, [66.67, 66.67], 3)
    assert baseline["gain"] is None
    assert lines_of(chosen[:1], results[:2])[0]["gain"] is None


def test_the_page_shows_every_row_beside_the_baseline() -> None:
    chosen = [a_plan("ours", ("Ours",)), a_plan("fedadam", (BASELINE,))]
    results = [
        a_result("ours", 0, {"Ours": [0.4, 0.7, 0.9]}),
        a_result("fedadam", 0, {BASELINE: [0.3, 0.5, 0.6]}),
    ]
    summary = {
        "training_clients": 50, "scored_clients": 3, "chance": 31.5, "draws_per_client": 6,
        "query_images_per_class": 10, "seeds": 1, "clients_per_round": 10,
        "baseline": BASELINE,
        "lines": lines_of(chosen, results),
    }  # fmt: skip
    content = {"command": "python x", "commit": "0123456789abcdef", "machine": "2 cores"}
    text = clients_table(content | {"results": summary})
    assert "| Ours | 66.67 ± 28.48 | +20.00 ± 11.32 | 1 |" in text
    assert f"| {BASELINE} | 46.67 ± 17.29 |  | 1 |" in text
    assert "Guessing: 31.5. One seed; 2 rounds with 10 of 50 clients" in text


# --- the whole ------------------------------------------------------------------------------------


def test_the_script_trains_scores_writes_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tiny() -> list[FederatedPlan]:
        fedavg = next(plan for plan in plans() if plan.name == "fedavg")
        study = fedavg.training.study.model_copy(update={"model": MODEL, "rounds": 2})
        short = fedavg.training.model_copy(update={"study": study, "meta_batch": 2})
        return [a_plan("ours", ("Ours",)), replace(fedavg, training=short)]

    monkeypatch.setattr(federated_table, "plans", tiny)
    monkeypatch.setattr(federated_table, "load_characters", lambda _: characters(30, 8))
    monkeypatch.setattr(federated_table, "TRAINED_ON", 20)
    few = {"TRAINING": 2, "VALIDATION": 1, "NEW": 2, "N_QUERY": 2, "EPISODES": 2}
    for name, value in few.items():
        monkeypatch.setattr(federated_table, name, value)
    monkeypatch.setattr(federated_table, "OUT", tmp_path / "work")
    monkeypatch.setattr(federated_table, "RESULTS", tmp_path)
    monkeypatch.setattr(federated_table, "WorkerPool", InThisProcess)
    monkeypatch.setattr(sys, "argv", ["federated_table.py", "--data", "x", "--seeds", "2"])
    federated_table.main()
    out = tmp_path / "federated.json"
    first = json.loads(out.read_text("utf-8"))["results"]
    assert {line["title"] for line in first["lines"]} == {"Ours", "FedAvg", "FedAvg + fine-tune"}
    assert (first["training_clients"], first["scored_clients"]) == (2, 2)
    assert all(line["rounds"] == [2, 2] for line in first["lines"])

    def no_more_training(*_: object) -> None:
        raise AssertionError

    with monkeypatch.context() as patched:
        patched.setattr(jobs, "train", no_more_training)
        patched.setattr(sys, "argv", [*sys.argv, "--resume"])
        federated_table.main()
        assert json.loads(out.read_text("utf-8"))["results"]["lines"] == first["lines"]
        patched.setattr(sys, "argv", sys.argv[:-1])
        with pytest.raises(AssertionError):
            federated_table.main()


def test_a_row_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        federated_table.options_of(["--data", "x", "--rows", "fedavg,nonsense"])
    assert "no row nonsense" in capsys.readouterr().err
