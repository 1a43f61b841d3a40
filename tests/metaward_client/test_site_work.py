"""A site's answer to an order: the same bytes each time, and nothing of the site in a refusal."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, Metadata, RecordDict

from metaward.arrays import to_arrays
from metaward.config import load_settings
from metaward.errors import ConfigError, DataError, PrivacyError, ProtocolError
from metaward.learner_settings import FomamlSettings, PrototypicalSettings
from metaward.models.body import build_body
from metaward.study import ModelSettings, Study
from metaward.tasks import Task
from metaward.wire import RoundOrder, SiteRefusal, decode_update, encode_order, spec_of
from metaward_client import site_work
from metaward_client.app import app, open_site
from metaward_client.node.approval import (
    MAX_PROPOSALS,
    ApprovalError,
    Consent,
    approve,
    approved_only,
)
from metaward_client.privacy.ledger import BudgetExceeded
from metaward_client.privacy.noise import os_noise
from metaward_client.privacy.policy import NoPrivacy, ProtectedSettings
from metaward_client.site_work import SiteAtWork, answer_message, answer_order, site_seed
from private_site import TOY, block, create_ledger, dp_sgd

STUDY = Study(
    seed=5,
    model=ModelSettings(filters=8, image_size=16, groups=2),
    learner=FomamlSettings(n_way=2, n_shot=2, n_query=2, inner_steps=1, episodes=1),
)
THETA = to_arrays(build_body(STUDY.model, STUDY.seed).initial_parameters())


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """As in a worker; two threads on a busy machine are many times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def a_task(site: str = "north") -> Task:
    """Two labels that differ in brightness gradient; 8 patients per label, one image each."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 8)
    ramp = np.linspace(0, 1, 16, dtype=np.float32)
    images = np.stack([ramp[None, :].repeat(16, 0) if y else ramp[:, None].repeat(16, 1)
                       for y in labels])[:, None]  # fmt: skip
    noise = rng.uniform(0, 0.2, images.shape).astype(np.float32)
    tokens = tuple(bytes([number]) for number in range(16))
    return Task(site, images + noise, labels, np.arange(16), ("a", "b"), tokens)


@pytest.fixture
def site_of(tmp_path: Path) -> Callable[..., SiteAtWork]:
    def build(
        load_task: Callable[[Study], Task] = lambda _: a_task(),
        policy: NoPrivacy | ProtectedSettings | None = None,
        consent: Consent = lambda _: None,
    ) -> SiteAtWork:
        return SiteAtWork(
            load_task=load_task,
            round_log=tmp_path / "logs" / "north.jsonl",
            name="north",
            policy=policy or NoPrivacy(),
            source=os_noise(),
            consent=consent,
        )

    return build


def an_order(study: Study = STUDY, round_index: int = 2) -> RecordDict:
    return encode_order(RoundOrder(study, round_index, THETA))


def a_message(content: RecordDict) -> Message:
    metadata = Metadata(1, "m1", 0, 7, "", "1", 1.0e9, 60.0, "train")
    return Message(metadata=metadata, content=content)  # type: ignore[call-overload,no-any-return]


def log_of(site: SiteAtWork) -> list[dict[str, Any]]:
    return [json.loads(line) for line in site.round_log.read_text().splitlines()]


def delta_bytes(answer: RecordDict | SiteRefusal) -> bytes:
    assert isinstance(answer, RecordDict)
    delta = decode_update(answer, spec_of(THETA)).delta
    return b"".join(delta[name].tobytes() for name in sorted(delta))


def test_the_answer_is_an_update_for_this_study_and_round(site_of: Any) -> None:
    answer = answer_order(an_order(), site_of())
    assert isinstance(answer, RecordDict)
    update = decode_update(answer, spec_of(THETA))
    assert (update.study_digest, update.round_index) == (STUDY.digest(), 2)
    assert any(leaf.any() for leaf in update.delta.values())


def test_the_same_order_gets_the_same_bytes(site_of: Any) -> None:
    assert delta_bytes(answer_order(an_order(), site_of())) == delta_bytes(
        answer_order(an_order(), site_of())
    )


def test_another_round_or_seed_gets_other_episodes(site_of: Any) -> None:
    seeds = STUDY.model_copy(update={"seed": 6})
    answers = [an_order(), an_order(round_index=3), an_order(seeds)]
    assert len({delta_bytes(answer_order(order, site_of())) for order in answers}) == 3


def test_randomness_depends_on_seed_and_site_alone() -> None:
    assert site_seed(1, "north") == site_seed(1, "north")
    assert len({site_seed(s, n) for s in (1, 2) for n in ("north", "south")}) == 4


def test_the_loss_stays_in_the_sites_own_log(site_of: Any) -> None:
    site = site_of()
    answer = answer_order(an_order(), site)
    (entry,) = log_of(site)
    assert entry["outcome"] == "sent"
    assert entry["round_index"] == 2
    assert entry["loss"] > 0
    assert entry["mechanism"] == "none (NOT PRIVATE)"
    assert isinstance(answer, RecordDict)
    assert not answer.metric_records


def raising(error: Exception) -> Callable[[Study], Task]:
    def load(_: Study) -> Task:
        raise error

    return load


@pytest.mark.parametrize(
    ("error", "refusal"),
    [
        (DataError("2 patients with label 'a'"), SiteRefusal.DATA),
        (ConfigError("no site.yaml"), SiteRefusal.STUDY),
        (PrivacyError("no ledger"), SiteRefusal.PRIVACY),
        (BudgetExceeded("no budget"), SiteRefusal.BUDGET),
        (ProtocolError("bad theta"), SiteRefusal.PROTOCOL),
        (ValueError("/home/DOE^JOHN.dcm"), SiteRefusal.INTERNAL),
        (MemoryError(), SiteRefusal.INTERNAL),
    ],
)
def test_a_failure_sends_a_number_and_no_word(
    site_of: Any, error: Exception, refusal: SiteRefusal
) -> None:
    site = site_of(raising(error))
    reply = answer_message(a_message(an_order()), lambda: site)
    assert reply.has_error()
    assert (reply.error.code, reply.error.reason) == (refusal.value, None)
    (entry,) = log_of(site)
    assert entry["outcome"] == refusal.name.lower()
    assert "DOE" not in site.round_log.read_text()


def test_a_site_that_cannot_be_opened_refuses_too(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> SiteAtWork:
        raise OSError("/home/DOE^JOHN")

    reply = answer_message(a_message(an_order()), broken)
    assert (reply.error.code, reply.error.reason) == (SiteRefusal.INTERNAL.value, None)
    assert "OSError" in caplog.text
    assert "DOE" not in caplog.text


def test_too_few_patients_for_an_episode_is_a_refusal_for_data(site_of: Any) -> None:
    study = STUDY.model_copy(update={"learner": FomamlSettings(n_way=2, n_shot=90, n_query=2)})
    site = site_of()
    assert answer_order(an_order(study), site) is SiteRefusal.DATA
    assert "n_shot" in log_of(site)[0]["reason"]


def test_an_order_that_does_not_follow_the_protocol_is_refused_before_data_is_read(
    site_of: Any,
) -> None:
    site = site_of(raising(AssertionError("data was read")))
    assert answer_order(RecordDict(), site) is SiteRefusal.PROTOCOL


def test_meta_parameters_that_are_not_finite_are_refused(site_of: Any) -> None:
    broken = {name: leaf.copy() for name, leaf in THETA.items()}
    next(iter(broken.values())).flat[0] = np.nan
    order = encode_order(RoundOrder(STUDY, 0, broken))
    assert answer_order(order, site_of()) is SiteRefusal.PROTOCOL


def test_a_delta_that_is_not_finite_does_not_leave(site_of: Any) -> None:
    huge = STUDY.model_copy(update={"learner": STUDY.learner.model_copy(update={
        "inner_lr": 1e30, "inner_steps": 3,
    })})  # fmt: skip
    assert answer_order(an_order(huge), site_of()) is SiteRefusal.PRIVACY


@pytest.fixture
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], ProtectedSettings]:
    """A policy with a ledger into which three rounds fit."""
    monkeypatch.setattr("metaward_client.privacy.ledger.ledger.accountant_of_record", lambda: TOY)

    def make(which: Any) -> ProtectedSettings:
        policy: ProtectedSettings = which(tmp_path)
        create_ledger(policy)
        return policy

    return make


MECHANISMS = pytest.mark.parametrize("which", [dp_sgd, block])


@MECHANISMS
def test_under_a_mechanism_a_round_is_answered_and_answered_again(
    which: Any, private: Any, site_of: Any
) -> None:
    site = site_of(policy=private(which))
    first, again = answer_order(an_order(), site), answer_order(an_order(), site)
    assert delta_bytes(first) == delta_bytes(again)
    one, two = log_of(site)
    assert (one["outcome"], two["outcome"]) == ("sent", "sent again")
    assert one["mechanism"] == site.policy.label


@MECHANISMS
def test_the_round_log_holds_what_it_says_and_no_more(
    which: Any, private: Any, site_of: Any
) -> None:
    policy = private(which)
    answer_order(an_order(), site_of(policy=policy))
    answer_order(an_order(round_index=3), site_of(raising(DataError("2 patients")), policy))
    sent, refused = log_of(site_of())
    both = {"time", "round_index", "study", "outcome", "seconds"}
    assert sent.keys() == both | {"loss", "delta_norm", "mechanism"}
    assert refused.keys() == both | {"reason"}
    assert "patients" not in refused["reason"]


@MECHANISMS
def test_under_a_mechanism_no_refusal_speaks_of_the_data(
    which: Any, private: Any, site_of: Any
) -> None:
    site = site_of(raising(DataError("2 patients with label 'a'")), private(which))
    assert answer_order(an_order(), site) is SiteRefusal.INTERNAL


@MECHANISMS
def test_a_spent_budget_is_a_refusal_of_its_own_and_no_data_is_read(
    which: Any, private: Any, site_of: Any
) -> None:
    policy = private(which)
    for round_index in range(3):
        assert isinstance(
            answer_order(an_order(round_index=round_index), site_of(policy=policy)), RecordDict
        )
    spent = site_of(raising(AssertionError("data was read")), policy)
    assert answer_order(an_order(round_index=3), spent) is SiteRefusal.BUDGET
    assert isinstance(answer_order(an_order(round_index=1), spent), RecordDict)


def test_a_study_that_cannot_be_private_is_refused_as_a_study(private: Any, site_of: Any) -> None:
    study = STUDY.model_copy(update={"learner": PrototypicalSettings()})
    one_sum = private(partial(dp_sgd, steps_per_round=1))  # a prototypical network needs two
    site = site_of(raising(AssertionError("data was read")), one_sum)
    assert answer_order(an_order(study), site) is SiteRefusal.STUDY
    assert isinstance(answer_order(an_order(), site_of(policy=site.policy)), RecordDict)


@MECHANISMS
def test_a_ledger_that_is_not_as_it_was_left_is_a_refusal(
    which: Any, private: Any, site_of: Any
) -> None:
    policy = private(which)
    (policy.ledger / "ledger.jsonl").write_bytes(b"")
    site = site_of(raising(AssertionError("data was read")), policy)
    assert answer_order(an_order(), site) is SiteRefusal.PRIVACY


SITE_YAML = "name: north\ndata: {root: images}\n"


def a_site(tmp_path: Path, privacy: str) -> dict[str, Any]:
    (tmp_path / "images").mkdir()
    (tmp_path / "site.yaml").write_text(SITE_YAML + privacy)
    return {"site": str(tmp_path), "round-log": "y", "simulated": True}


def test_the_node_says_where_the_site_is(tmp_path: Path) -> None:
    for config in ({}, {"site": "x"}, {"site": 3, "round-log": "y"}):
        with pytest.raises(ConfigError, match="site=PATH round-log=PATH"):
            open_site(config)
    site = open_site(a_site(tmp_path, "privacy: {mechanism: none}\n"))
    assert (site.name, site.round_log, site.policy) == ("north", Path("y"), NoPrivacy())


def test_a_site_whose_file_says_nothing_of_privacy_answers_no_study(tmp_path: Path) -> None:
    node = a_site(tmp_path, "")
    with pytest.raises(ConfigError, match="no privacy policy"):
        open_site(node)
    reply = app(a_message(an_order()), Context(1, 7, node, RecordDict(), {}))
    assert (reply.error.code, reply.error.reason) == (SiteRefusal.STUDY.value, None)


def test_noise_comes_from_the_operating_system_and_is_another_each_time(tmp_path: Path) -> None:
    node = a_site(tmp_path, "privacy: {mechanism: none}\n")
    draws = [open_site(node).source.normals(4).tolist() for _ in range(2)]
    assert draws[0] != draws[1]


def test_a_simulation_names_a_policy_file(tmp_path: Path) -> None:
    node = a_site(tmp_path, "privacy: {mechanism: none}\n")
    (tmp_path / "p.yaml").write_text(
        "privacy: {mechanism: block, target_epsilon: 8, target_delta: 1.0e-5, population: 100}\n"
    )
    policy = open_site(node | {"policy": str(tmp_path / "p.yaml")}).policy
    assert policy.label == "block release"
    (tmp_path / "p.yaml").unlink()
    with pytest.raises(ConfigError):
        open_site(node | {"policy": str(tmp_path / "p.yaml")})


def test_a_site_whose_accelerator_is_away_refuses_before_a_round_is_charged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    private = (
        "privacy: {mechanism: block, target_epsilon: 8, target_delta: 1.0e-5, population: 100,"
        " witness: witness}\ndevice: cuda\n"
    )
    node = a_site(tmp_path, private) | {"round-log": str(tmp_path / "log")}
    monkeypatch.setattr(site_work, "release", raising(AssertionError("a round was charged")))
    assert answer_order(an_order(), open_site(node)) is SiteRefusal.STUDY
    assert "device: cpu" in (tmp_path / "log").read_text()


def test_dp_sgd_is_refused_on_another_device_however_it_is_named(tmp_path: Path) -> None:
    private = (
        "privacy: {mechanism: dp-sgd, target_epsilon: 8, target_delta: 1.0e-5, population: 100,"
        " labels: [a, b], witness: witness}\n"
    )
    node = a_site(tmp_path, private) | {"device": "meta"}
    with pytest.raises(ValueError, match="holds on a CPU alone"):
        open_site(node).consent(STUDY)


def test_a_study_that_nobody_approved_is_refused_before_data_is_read_and_can_then_be_approved(
    tmp_path: Path, site_of: Callable[..., SiteAtWork], monkeypatch: pytest.MonkeyPatch
) -> None:
    approvals, proposals = tmp_path / "approvals", tmp_path / "proposals"
    proposals.mkdir()
    consent = approved_only(approvals, proposals)
    shut = site_of(raising(AssertionError("data was read")), consent=consent)
    order = an_order()
    with monkeypatch.context() as patched:
        patched.setattr(site_work, "expected_shapes", raising(AssertionError("a model was built")))
        assert answer_order(order, shut) is SiteRefusal.APPROVAL
    assert "is not approved here" in log_of(shut)[-1]["reason"]
    assert log_of(shut)[-1]["study"] == STUDY.digest()

    [proposal] = proposals.iterdir()
    approve(approvals, load_settings(proposal, Study), "A. Officer", datetime.now(UTC))
    assert isinstance(answer_order(an_order(), site_of(consent=consent)), RecordDict)
    other = STUDY.model_copy(update={"rounds": STUDY.rounds + 1})
    assert answer_order(an_order(other), shut) is SiteRefusal.APPROVAL


@pytest.mark.parametrize(
    "settings",
    [{}, {"simulated": False}, {"simulated": "true"}, {"approvals": "a"}, {"proposals": "p"}],
)
def test_a_node_that_is_no_simulation_answers_only_what_was_approved(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    node = a_site(tmp_path, "privacy: {mechanism: none}\n")
    del node["simulated"]
    with pytest.raises(ConfigError, match="approvals"):
        open_site(node | settings)


def test_a_simulation_cannot_overrule_the_folders_of_a_hospital(tmp_path: Path) -> None:
    node = a_site(tmp_path, "privacy: {mechanism: none}\n")
    folders = {"approvals": str(tmp_path / "a"), "proposals": str(tmp_path / "p")}
    with pytest.raises(ApprovalError):
        open_site(node | folders).consent(STUDY)


def test_a_coordinator_cannot_fill_the_disk_with_proposals(tmp_path: Path) -> None:
    proposals = tmp_path / "proposals"
    proposals.mkdir()
    consent = approved_only(tmp_path / "approvals", proposals)
    for rounds in range(1, MAX_PROPOSALS + 5):
        with pytest.raises(ApprovalError):
            consent(STUDY.model_copy(update={"rounds": rounds}))
    assert len(list(proposals.iterdir())) == MAX_PROPOSALS


def test_a_node_without_settings_refuses_and_tells_nothing() -> None:
    reply = app(a_message(an_order()), Context(1, 7, {}, RecordDict(), {}))
    assert (reply.error.code, reply.error.reason) == (SiteRefusal.STUDY.value, None)
