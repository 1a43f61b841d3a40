"""A private site's answer to an order: what is charged, logged and refused."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from flwr.app import RecordDict

from metaward.errors import DataError
from metaward.learner_settings import PrototypicalSettings
from metaward.wire import SiteRefusal
from metaward_client.privacy.policy import ProtectedSettings
from metaward_client.site_work import answer_order
from private_site import TOY, block, create_ledger, dp_sgd
from site_orders import STUDY, an_order, delta_bytes, log_of, raising


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
    assert (
        sent["loss"] is None or sent["loss"] > 0
    )  # where it is not known: no NaN, which no JSON has


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
