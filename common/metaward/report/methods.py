"""The methods that are compared, in words for a reader who does not know the field."""

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
