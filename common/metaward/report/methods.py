"""The methods that are compared, in words for a reader who does not know the field."""

from metaward.learner_settings import LearnerSettings
from metaward.report.schema import MethodSummary

SHARED = MethodSummary(
    name="meta",
    label="Shared model",
    phrase="with the shared model",
    description="learned by all hospitals together so that it adapts well, then adapted to the "
    "labelled images.",
)
FEDAVG = MethodSummary(
    name="fedavg",
    label="FedAvg + fine-tune",
    phrase="with federated averaging and fine-tuning",
    description="ordinary federated training (FedAvg) with the same images, then fine-tuned on "
    "the labelled images.",
)
FEDADAM = MethodSummary(
    name="fedadam",
    label="FedAdam + fine-tune",
    phrase="with FedAdam and fine-tuning",
    description="the same federated training, but the server takes Adam's step in the place of the "
    "plain average.",
)
LOCAL = MethodSummary(
    name="local",
    label="Hospital alone",
    phrase="when the hospital trains alone",
    description="trained on the hospital's labelled images and on nothing else.",
)
RANDOM = MethodSummary(
    name="random",
    label="Random start",
    phrase="from a random start",
    description="adapted in the same way as the shared model, from a model that has learned "
    "nothing.",
)
POOLED = MethodSummary(
    name="pooled",
    label="Pooled + fine-tune",
    phrase="with all images pooled in one place",
    description="ordinary training on the images of all hospitals in one place, which privacy "
    "forbids outside a simulation, then fine-tuned on the labelled images.",
)
NOISE_ONLY = MethodSummary(
    name="noise-only",
    label="Noise alone",
    phrase="from updates that hold nothing but noise",
    description="the shared model's training with the same noise and without patients: what it "
    "gains, noise gives.",
)
START = MethodSummary(
    name="start",
    label="Start",
    phrase="from the model that training began from",
    description="the model that training began from, adapted in the same way: what is above it the "
    "hospitals have taught.",
)
BASELINES = {
    summary.name: summary for summary in (FEDAVG, FEDADAM, LOCAL, RANDOM, POOLED, NOISE_ONLY, START)
}
"""Every baseline, by name."""


def shared_model(learner: LearnerSettings) -> MethodSummary:
    """Return the summary of the shared model; its description names the learner."""
    description = f"{SHARED.description.rstrip('.')} ({learner.TITLE})."
    return SHARED.model_copy(update={"description": description})
