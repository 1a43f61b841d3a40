"""A site's answer to an order: the same bytes each time, and nothing of the site in a refusal."""

from typing import Any

import numpy as np
import pytest
from flwr.app import RecordDict

from metaward.errors import ConfigError, DataError, PrivacyError, ProtocolError
from metaward.learner_settings import FomamlSettings
from metaward.wire import RoundOrder, SiteRefusal, decode_update, encode_order
from metaward.wire_arrays import spec_of
from metaward_client.node.approval import ApprovalError
from metaward_client.privacy.ledger import BudgetExceeded
from metaward_client.site_work import SiteAtWork, answer_message, answer_order, site_seed
from site_orders import STUDY, THETA, a_message, an_order, delta_bytes, log_of, raising


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


def test_a_site_that_cannot_be_opened_says_nothing_of_its_data() -> None:
    def broken() -> SiteAtWork:
        raise DataError("2 patients with label 'a'")

    reply = answer_message(a_message(an_order()), broken)
    assert reply.error.code == SiteRefusal.INTERNAL.value


def test_nothing_is_built_for_a_study_that_nobody_agreed_to(
    site_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = raising(AssertionError("a network was built"))
    monkeypatch.setattr("metaward_client.site_work.model_spec", built)
    site = site_of(consent=raising(ApprovalError("not approved")))
    assert answer_order(an_order(), site) is SiteRefusal.APPROVAL


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
