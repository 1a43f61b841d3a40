"""An accountant that disagrees with all the others is not trusted."""

import math
from dataclasses import replace

import pytest

from metaward.errors import PrivacyError
from metaward_client.privacy.cross_check import CrossCheck, _under, cross_check
from metaward_client.privacy.terms import GaussianStep, Relation

ADD = Relation.ADD_OR_REMOVE_ONE
REPLACE = Relation.REPLACE_ONE
AGREED = CrossCheck(
    target_delta=1e-5,
    relation=ADD,
    pld=7.5237,
    pld_own_composition=7.5236999,
    pld_upper=7.5238,
    rdp=8.2967,
    prv=7.5341,
    prv_lower=7.5131,
)


def test_accountants_that_agree_are_left_alone() -> None:
    AGREED.require_agreement()
    replace(AGREED, prv=None, prv_lower=None).require_agreement()


@pytest.mark.parametrize(
    ("pld", "own", "why"),
    [
        (7.52, 7.5237, "less than dp-accounting's own composition"),
        (7.53, 7.5237, "more than dp-accounting's own composition"),
        (8.2980, 8.2980, "more than RDP's upper bound"),
        (7.5130, 7.5130, "less than PRV's lower bound"),
        (math.inf, math.inf, None),  # promises nothing, so it cannot be wrong
        (6.0, math.inf, "less than dp-accounting's own composition"),
    ],
)
def test_disagreement_stops_everything(pld: float, own: float, why: str | None) -> None:
    check = replace(AGREED, pld=pld, pld_own_composition=own, pld_upper=own + 1e-4)
    if why is None:
        check.require_agreement()
        return
    with pytest.raises(PrivacyError, match=f"{why}.*Release nothing and report this"):
        check.require_agreement()


def test_replacing_is_bounded_by_group_privacy_for_two() -> None:
    # If removing costs 3 at every delta above 1e-8 and 4 below: 2 * 3 needs d (1 + e^3) <= 1e-5,
    # which d = 4.7e-7 is. Where it costs 3 above 1e-6 only, d must be 1.8e-7, and it is 2 * 4.
    assert _under(REPLACE, lambda d: 3.0 if d > 1e-8 else 4.0, 1e-5) == 6.0
    assert _under(REPLACE, lambda d: 3.0 if d > 1e-6 else 4.0, 1e-5) == 8.0
    assert _under(REPLACE, lambda _: math.inf, 1e-5) == math.inf
    assert _under(ADD, lambda d: 1 / d, 1e-5) == pytest.approx(1e5)


@pytest.mark.slow  # imports Opacus, about 5 s
@pytest.mark.parametrize(
    ("composition", "target_delta", "rdp", "prv"),
    [
        ({GaussianStep(1.1, 0.00426667): 14062}, 1e-5, 2.5966, 2.3917),
        ({GaussianStep(1, 0.05): 500}, 1e-5, 8.2967, 7.5341),
        ({GaussianStep(4, 0.5): 200}, 1e-5, 9.5002, 8.8299),
        ({GaussianStep(1, 1): 1}, 1e-5, 4.7285, 4.3874),
        (
            {GaussianStep(1, 0.05): 200, GaussianStep(2, 0.1): 300, GaussianStep(8, 1): 20},
            1e-5,
            7.6841,
            7.0266,
        ),
        ({GaussianStep(4, 0.02): 100}, 1e-5, 0.1913, 0.1801),
    ],
)
def test_opacus_agrees_on_published_vectors(
    composition: dict[GaussianStep, int], target_delta: float, rdp: float, prv: float
) -> None:
    check = cross_check(composition, target_delta)
    assert check.prv == pytest.approx(prv, abs=1e-4)
    assert check.rdp == pytest.approx(rdp, rel=0.01)
    assert check.prv is not None
    assert abs(check.pld - check.prv) <= 0.011  # PRV's own error is 0.01
    assert check.pld <= check.rdp
    replacing = cross_check(composition, target_delta, REPLACE)
    assert check.pld <= replacing.pld <= replacing.rdp


@pytest.mark.parametrize("target_delta", [1e-8, 1e-10])
def test_at_the_smallest_deltas_the_accountants_agree_too(
    target_delta: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 1e-11 of delta, which ours gives away, is much of it there: epsilon is 0.0004 and 0.04 above.
    # Opacus' accountants, which take seconds, have their tests below.
    module = "metaward_client.privacy.cross_check."
    monkeypatch.setattr(module + "_rdp_curve", lambda _: lambda _: math.inf)
    monkeypatch.setattr(module + "_prv", lambda *_: None)
    check = cross_check({GaussianStep(1, 0.05): 500}, target_delta)  # raises where they do not
    assert check.pld_own_composition + 1e-4 < check.pld <= check.pld_upper


@pytest.mark.slow
def test_where_prv_would_take_minutes_it_is_left_out() -> None:
    check = cross_check({GaussianStep(1, 0.5): 2000}, 1e-5)
    assert check.prv is None
    assert check.prv_lower is None
    assert check.pld <= check.rdp


@pytest.mark.slow
def test_nothing_spent_is_nothing_for_every_accountant() -> None:
    check = cross_check({}, 1e-5)
    assert check.pld == check.pld_own_composition == 0.0
    assert check.prv is None


@pytest.mark.slow
def test_an_accountant_that_says_less_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def half(*_: object, **__: object) -> float:
        return 3.7

    monkeypatch.setattr("metaward_client.privacy.cross_check.epsilon", half)
    with pytest.raises(PrivacyError, match=r"says epsilon 3\.7000, less than dp-accounting's own"):
        cross_check({GaussianStep(1, 0.05): 500}, 1e-5)
