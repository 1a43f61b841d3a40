"""A site's answer to an order: the same bytes each time, and nothing of the site in a refusal."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, Metadata, RecordDict

from metaward.arrays import to_arrays
from metaward.errors import ConfigError, DataError, PrivacyError, ProtocolError
from metaward.models.body import build_body
from metaward.study import FomamlSettings, ModelSettings, Study
from metaward.tasks import Task
from metaward.wire import RoundOrder, SiteRefusal, decode_update, encode_order, spec_of
from metaward_client.app import app, open_site
from metaward_client.site_work import SiteAtWork, answer_message, answer_order, site_rng

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
    return Task(site, images + noise, labels, np.arange(16), ("a", "b"))


@pytest.fixture
def site_of(tmp_path: Path) -> Callable[..., SiteAtWork]:
    def build(load_task: Callable[[Study], Task] = lambda _: a_task()) -> SiteAtWork:
        return SiteAtWork(load_task=load_task, round_log=tmp_path / "logs" / "north.jsonl")

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


def test_randomness_depends_on_seed_site_and_round_alone() -> None:
    def draw(seed: int, site: str, round_index: int) -> float:
        return site_rng(seed, site, round_index).random()

    assert draw(1, "north", 2) == draw(1, "north", 2)
    assert len({draw(s, n, r) for s in (1, 2) for n in ("north", "south") for r in (0, 1)}) == 8


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
        (PrivacyError("no budget"), SiteRefusal.PRIVACY),
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


def test_the_node_says_where_the_site_is(tmp_path: Path) -> None:
    for config in ({}, {"site": "x"}, {"site": 3, "round-log": "y"}):
        with pytest.raises(ConfigError, match="site=PATH round-log=PATH"):
            open_site(config)
    assert open_site({"site": "x", "round-log": "y"}).round_log == Path("y")


def test_a_node_without_settings_refuses_and_tells_nothing() -> None:
    reply = app(a_message(an_order()), Context(1, 7, {}, RecordDict(), {}))
    assert (reply.error.code, reply.error.reason) == (SiteRefusal.STUDY.value, None)
