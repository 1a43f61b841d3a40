"""A whole federation over DICOM hospitals on this machine."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml

from metaward.arrays import Arrays
from metaward.errors import ConfigError
from metaward.learner_settings import FomamlSettings
from metaward.model_settings import ModelSettings
from metaward.progress import RoundEvent
from metaward.study import AdamSettings, Study
from metaward.wire import RoundOrder, SiteRefusal, encode_order
from metaward_client.app import open_site
from metaward_client.site_work import answer_order
from metaward_server.study_run import initial_theta
from metaward_sim.demo_data import write_demo
from metaward_sim.federation import flower_log, run_federation

STUDY = Study(
    seed=1,
    rounds=3,
    model=ModelSettings(filters=8, image_size=32),
    learner=FomamlSettings(n_way=2, n_shot=1, n_query=1, inner_steps=1, episodes=1),
    outer=AdamSettings(step_size=0.01),
)


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("hospitals")
    sites = [summary.path for summary in write_demo(folder, hospitals=3, patients=4)]
    for site in sites:
        with (site / "site.yaml").open("a") as file:
            file.write("privacy: {mechanism: none}\n")
    return sites


def bits(theta: Arrays) -> dict[str, bytes]:
    return {name: leaf.tobytes() for name, leaf in theta.items()}


def test_a_node_computes_where_its_site_says_or_where_a_simulation_does(
    sites: Sequence[Path], tmp_path: Path
) -> None:
    node = {"site": str(sites[0]), "round-log": str(tmp_path / "log"), "simulated": True}
    assert open_site(node).load_task(STUDY).device.type == "cpu"
    # "meta" stands for an accelerator: it has no memory, and every machine has it
    task = open_site(node | {"device": "meta"}).load_task(STUDY)
    assert task.device.type == "meta"
    assert task.take(np.arange(3)).device.type == task.labels_at(np.arange(3)).device.type == "meta"


def test_an_accelerator_that_is_not_there_stops_no_hospital_from_answering_in_words(
    sites: Sequence[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    log = tmp_path / "log"
    node = {"site": str(sites[0]), "round-log": str(log), "simulated": True, "device": "cuda"}
    order = encode_order(RoundOrder(STUDY, 0, initial_theta(STUDY)))
    assert answer_order(order, open_site(node)) is SiteRefusal.STUDY
    assert json.loads(log.read_text())["reason"].startswith("ConfigError: Set `device: cpu`")


def test_hospitals_move_theta_and_everything_is_written_down(
    sites: Sequence[Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    events: list[RoundEvent] = []
    theta = run_federation(STUDY, sites, tmp_path / "run", on_round=events.append)
    assert bits(theta) != bits(initial_theta(STUDY))
    assert [(event.round_index, event.asked, event.admitted) for event in events] == [
        (0, 3, 3),
        (1, 3, 3),
        (2, 3, 3),
    ]
    run = tmp_path / "run"
    assert len((run / "rounds.jsonl").read_text().splitlines()) == 3
    logs = sorted((run / "sites").glob("*.jsonl"))
    assert len(logs) == 3
    for log in logs:
        entries = [json.loads(line) for line in log.read_text().splitlines()]
        assert [entry["round_index"] for entry in entries] == [0, 1, 2]
        assert all(entry["loss"] > 0 for entry in entries)
    assert capfd.readouterr() == ("", "")


def test_interrupted_and_resumed_or_with_one_worker_it_ends_at_the_same_bits(
    sites: Sequence[Path], tmp_path: Path
) -> None:
    class PowerCut(BaseException):
        pass

    def cut(event: RoundEvent) -> None:
        if event.round_index == 1:
            raise PowerCut

    whole = run_federation(STUDY, sites, tmp_path / "whole", workers=1)
    with pytest.raises(PowerCut):
        run_federation(STUDY, sites, tmp_path / "cut", on_round=cut)
    assert bits(run_federation(STUDY, sites, tmp_path / "cut", resume=True)) == bits(whole)


def test_a_run_that_goes_on_elsewhere_is_not_resumed_beside_it(
    sites: Sequence[Path], tmp_path: Path
) -> None:
    def resume_meanwhile(event: RoundEvent) -> None:
        if event.round_index == 1:
            with pytest.raises(ConfigError, match="this run runs already"):
                run_federation(STUDY, sites, tmp_path, resume=True)

    run_federation(STUDY, sites, tmp_path, on_round=resume_meanwhile)
    lines = (tmp_path / "rounds.jsonl").read_text().splitlines()
    assert [json.loads(line)["round_index"] for line in lines] == [0, 1, 2]


def test_the_order_in_which_sites_are_named_changes_no_bit(
    sites: Sequence[Path], tmp_path: Path
) -> None:
    forth = run_federation(STUDY, sites, tmp_path / "forth")
    back = run_federation(STUDY, sites[::-1], tmp_path / "back")
    assert bits(forth) == bits(back)


def test_a_site_with_too_few_patients_is_refused_and_the_others_go_on(
    sites: Sequence[Path], tmp_path: Path
) -> None:
    poor = write_demo(tmp_path / "poor", hospitals=1, patients=1, seed=9)[0].path
    settings = yaml.safe_load((poor / "site.yaml").read_text())
    settings |= {"name": "poor", "privacy": {"mechanism": "none"}}
    (poor / "site.yaml").write_text(yaml.safe_dump(settings))
    learner = FomamlSettings(n_way=2, n_shot=2, n_query=2, inner_steps=1, episodes=1)
    study = STUDY.model_copy(update={"learner": learner, "rounds": 1})
    events: list[RoundEvent] = []
    run_federation(study, [*sites, poor], tmp_path / "run", on_round=events.append)
    assert events[0].refused == {"site-data": 1}
    assert events[0].admitted == 3
    reason = json.loads((tmp_path / "run/sites/poor.jsonl").read_text())["reason"]
    assert "n_shot" in reason
    assert str(tmp_path) not in reason


def test_two_sites_of_one_name_are_refused(sites: Sequence[Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two sites of the name"):
        run_federation(STUDY, [sites[0], sites[0]], tmp_path / "run")


def test_no_site_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no site"):
        run_federation(STUDY, [], tmp_path / "run")


def test_flower_logs_to_a_file_and_its_handlers_are_given_back(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("flwr")
    before = (logger.handlers[:], logger.level, logger.propagate)
    with flower_log(tmp_path / "flower.log"):
        logger.error("round trip")
        logging.getLogger("metaward_server.admission").warning("node 3: norm")
    assert (logger.handlers, logger.level, logger.propagate) == before
    text = (tmp_path / "flower.log").read_text()
    assert "round trip" in text
    assert "node 3: norm" in text
    assert capfd.readouterr() == ("", "")
