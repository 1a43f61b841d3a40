"""What the people of a coordinator can do better, told by the rounds that have closed."""

from collections.abc import Sequence

import yaml

from metaward.privacy_promise import DP_SGD, MECHANISM_KEY
from metaward.progress import RoundEvent
from metaward.study import ADAM_FOR_SHORT, OuterSettings, Study, suits_short


def outer_step_advice(study: Study, closed: RoundEvent) -> str:
    """Return a sentence where hospitals clip and the study's outer step is not made for it.

    Before the first update nobody at the coordinator knows the hospitals' policies, and a study's
    own default suits those that do not clip. Nothing is said, and the sentence is empty, where only
    some of a round's hospitals clip: the others' updates are longer, and decide how far theta goes.
    """
    mechanisms = {promise.get(MECHANISM_KEY) for promise in closed.promises.values()}
    if mechanisms != {DP_SGD} or suits_short(study.outer):
        return ""
    return (
        "The hospitals clip their patients' gradients (dp-sgd). This study's step is slow for "
        f"updates that short ({in_yaml(study.outer)}), and what the hospitals spend does not come "
        f"back. A step made for them, in a study of its own: {in_yaml(ADAM_FOR_SHORT)}"
    )


def way_on(study: Study, closed: Sequence[RoundEvent], resume: str) -> str:
    """Return what to do about a study that has failed.

    Args:
        study: The study.
        closed: Its rounds.
        resume: The command that goes on after the last closed round.
    """
    if sum(event.void for event in closed) < study.rounds:
        return f"Mend it, then: {resume}"
    return "Mend it, then run it anew under another name: no round is left to resume."


def in_yaml(outer: OuterSettings) -> str:
    """Return an outer step as a line of a study's file.

    >>> in_yaml(ADAM_FOR_SHORT)
    'outer: {beta1: 0.9, beta2: 0.99, name: adam, step_size: 0.01, tau: 1.0e-05}'
    """
    flow = yaml.safe_dump(outer.model_dump(), default_flow_style=True, width=1000).strip()
    return f"outer: {flow}"
