"""What the people of a coordinator can do better, told by the rounds that have closed."""

from collections.abc import Iterable

from metaward.privacy_promise import DP_SGD, MECHANISM_KEY
from metaward.progress import RoundEvent
from metaward.study import ADAM_FOR_SHORT, Study, suits_short


def outer_step_advice(study: Study, rounds: Iterable[RoundEvent]) -> str:
    """Return a sentence where hospitals clip and the study's outer step is not made for it.

    Before the first update nobody at the coordinator knows the hospitals' policies, and a study's
    own default suits those that do not clip. Empty where there is nothing to say.
    """
    if suits_short(study.outer):
        return ""
    said = (promise for event in rounds for promise in event.promises.values())
    if all(promise[MECHANISM_KEY] != DP_SGD for promise in said):
        return ""
    step = ADAM_FOR_SHORT
    return (
        "Hospitals here clip their patients' gradients (dp-sgd), and this study's outer step "
        f"({study.outer.name}) is made for longer updates: the model will move slowly, and what "
        "the hospitals spend does not come back. Made for such updates is a study with "
        f"outer: {{name: {step.name}, step_size: {step.step_size}, tau: {step.tau}}}"
    )
