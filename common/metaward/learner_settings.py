"""What a learner may be set to: one class per learner, told apart by its name.

Two things beside its settings are said of each learner: its title, as readers know it, and what
its deltas are. A gradient is for an adaptive outer optimiser to scale; a difference of parameters
is to be taken as it is.
"""

from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field, model_validator

from metaward.adapt_settings import (
    FINE_TUNE,
    ONE_STEP,
    AdaptSettings,
    HeadStart,
    InnerLoopSettings,
    changing,
)
from metaward.config import Settings

Augment: TypeAlias = Literal["none", "dihedral"]
DeltaKind: TypeAlias = Literal["gradient", "difference"]
Distance: TypeAlias = Literal["squared-euclidean", "cosine"]
EpisodeLoss: TypeAlias = Literal["cross-entropy", "margin"]

MARGIN = "margin: by how much the true class is to win"
WAYS = "classes per episode; a site with fewer usable labels takes all of them"
TEMPERATURE = "what a cosine is divided by in front of the softmax"


LARGEST_RATE = 1_000_000
"""Of a rate that is a leaf of theta, and so float32, which has numbers up to 3.4e38."""
ADAM_LR = 1.0e-3
"""Reptile's inner rate with Adam, in training and at a new site (Nichol et al. 2018, Omniglot)."""


class ReptileSettings(Settings):
    """Nichol, Achiam and Schulman 2018: move theta towards the adapted parameters."""

    TITLE: ClassVar[str] = "Reptile"
    DELTA: ClassVar[DeltaKind] = "difference"

    name: Literal["reptile"] = "reptile"
    n_way: int = Field(5, ge=2, description=WAYS)
    n_shot: int = Field(10, ge=1, description="support images per class while meta-training")
    inner_steps: int = Field(5, ge=1)
    inner_optimizer: Literal["sgd", "adam"] = Field(
        "sgd", description="adam: with beta1 = 0, here and in adapt"
    )
    inner_lr: float = Field(0.1, gt=0, description="left out, with adam: 0.001")
    inner_batch: int = Field(10, ge=1, description="images per inner step")
    episodes: int = Field(4, ge=1, description="episodes per site and round")
    augment: Augment = "dihedral"
    adapt: AdaptSettings = AdaptSettings()

    @model_validator(mode="before")
    @classmethod
    def _rates_of_adam(cls, value: object) -> object:
        """Fill in rates for Adam where they are left out: those of SGD would be far too large."""
        if not isinstance(value, dict) or value.get("inner_optimizer") != "adam":
            return value
        adapt = value.get("adapt", {})
        filled = {"inner_lr": ADAM_LR} | value
        return filled | {"adapt": {"lr": ADAM_LR} | adapt if isinstance(adapt, dict) else adapt}


class PrototypicalSettings(Settings):
    """Snell, Swersky and Zemel 2017: nearest class mean in the feature space."""

    TITLE: ClassVar[str] = "prototypical network"
    DELTA: ClassVar[DeltaKind] = "gradient"

    name: Literal["prototypical"] = "prototypical"
    distance: Distance = "squared-euclidean"
    temperature: float = Field(0.1, gt=0, description=f"cosine: {TEMPERATURE}")
    loss: EpisodeLoss = "cross-entropy"
    margin: float = Field(1.0, gt=0, description=MARGIN)
    n_way: int = Field(5, ge=2, description=WAYS)
    n_shot: int = Field(5, ge=1)
    n_query: int = Field(5, ge=1, description="query images per class")
    episodes: int = Field(4, ge=1, description="episodes per site and round")
    augment: Augment = "dihedral"


class MatchingSettings(Settings):
    """Vinyals et al. 2016: attention over the support images, by cosine."""

    TITLE: ClassVar[str] = "matching network"
    DELTA: ClassVar[DeltaKind] = "gradient"

    name: Literal["matching"] = "matching"
    temperature: float = Field(0.1, gt=0, description=TEMPERATURE)
    full_context: bool = Field(False, description="embed each image in the light of the support")
    processing_steps: int = Field(
        5, ge=1, le=100, description="full context: reads of the support set for each query"
    )
    loss: EpisodeLoss = "cross-entropy"
    margin: float = Field(1.0, gt=0, description=MARGIN)
    n_way: int = Field(5, ge=2, description=WAYS)
    n_shot: int = Field(5, ge=1)
    n_query: int = Field(5, ge=1, description="query images per class")
    episodes: int = Field(4, ge=1, description="episodes per site and round")
    augment: Augment = "dihedral"


class RelationSettings(Settings):
    """Sung et al. 2018: a learned network compares the maps of class and query."""

    TITLE: ClassVar[str] = "relation network"
    DELTA: ClassVar[DeltaKind] = "gradient"

    name: Literal["relation"] = "relation"
    filters: int = Field(32, ge=4, le=512, description="channels of the comparing network's maps")
    loss: Literal["cross-entropy", "margin", "squared"] = Field(
        "cross-entropy", description="squared: the paper's, which is slow to leave chance"
    )
    margin: float = Field(1.0, gt=0, description=MARGIN)
    class_map: Literal["sum", "mean"] = Field("mean", description="of a class; sum: the paper's")
    n_way: int = Field(5, ge=2, description=WAYS)
    n_shot: int = Field(5, ge=1)
    n_query: int = Field(5, ge=1, description="query images per class")
    episodes: int = Field(4, ge=1, description="episodes per site and round")
    augment: Augment = "dihedral"


class SiameseSettings(Settings):
    """Koch et al. 2015, Hadsell et al. 2006: which two images show the same finding."""

    TITLE: ClassVar[str] = "siamese network"
    DELTA: ClassVar[DeltaKind] = "gradient"

    name: Literal["siamese"] = "siamese"
    loss: Literal["cross-entropy", "contrastive"] = "cross-entropy"
    margin: float = Field(1.0, gt=0, description="contrastive: how far apart other findings are")
    n_way: int = Field(5, ge=2, description=WAYS)
    n_shot: int = Field(5, ge=1)
    n_query: int = Field(5, ge=1, description="query images per class")
    episodes: int = Field(4, ge=1, description="episodes per site and round")
    augment: Augment = "dihedral"


class FomamlSettings(InnerLoopSettings):
    """Finn, Abbeel and Levine 2017, first-order: query gradient at phi, applied to theta."""

    TITLE: ClassVar[str] = "FOMAML"
    DELTA: ClassVar[DeltaKind] = "gradient"

    name: Literal["fomaml"] = "fomaml"
    n_way: int = Field(5, ge=2, description=WAYS)
    n_shot: int = Field(5, ge=1)
    n_query: int = Field(5, ge=1, description="query images per class")
    inner_steps: int = Field(1, ge=0, description="0 with prototypes is a prototypical network")
    inner_lr: float = Field(0.01, gt=0)
    episodes: int = Field(4, ge=1, description="episodes per site and round")
    augment: Augment = "dihedral"
    adapt: Annotated[AdaptSettings, changing(ONE_STEP)] = ONE_STEP


class MamlSettings(InnerLoopSettings):
    """Finn, Abbeel and Levine 2017: query gradient at phi, through the inner steps to theta."""

    TITLE: ClassVar[str] = "MAML"
    DELTA: ClassVar[DeltaKind] = "gradient"

    name: Literal["maml"] = "maml"
    n_way: int = Field(5, ge=2, description=WAYS)
    n_shot: int = Field(5, ge=1)
    n_query: int = Field(5, ge=1, description="query images per class")
    inner_steps: int = Field(1, ge=0, description="0 with prototypes is a prototypical network")
    inner_lr: float = Field(0.01, gt=0)
    checkpoint: bool = Field(
        False, description="hold one inner step in memory at a time; costs time, changes no result"
    )
    episodes: int = Field(4, ge=1, description="episodes per site and round")
    augment: Augment = "dihedral"
    adapt: Annotated[AdaptSettings, changing(ONE_STEP)] = ONE_STEP


class AnilSettings(InnerLoopSettings):
    """Raghu et al. 2020: MAML whose inner loop moves the head alone."""

    TITLE: ClassVar[str] = "ANIL"
    DELTA: ClassVar[DeltaKind] = "gradient"

    name: Literal["anil"] = "anil"
    n_way: int = Field(5, ge=2, description=WAYS)
    n_shot: int = Field(5, ge=1)
    n_query: int = Field(5, ge=1, description="query images per class")
    inner_steps: int = Field(5, ge=0, description="0 with prototypes is a prototypical network")
    inner_lr: float = Field(0.01, gt=0, description="of the head; the body stays")
    episodes: int = Field(4, ge=1, description="episodes per site and round")
    augment: Augment = "dihedral"
    adapt: AdaptSettings = AdaptSettings()


class MetaSgdSettings(Settings):
    """Li et al. 2017: MAML whose inner learning rates are learned as theta is."""

    TITLE: ClassVar[str] = "Meta-SGD"
    DELTA: ClassVar[DeltaKind] = "gradient"

    name: Literal["meta-sgd"] = "meta-sgd"
    n_way: int = Field(5, ge=2, description=WAYS)
    n_shot: int = Field(5, ge=1)
    n_query: int = Field(5, ge=1, description="query images per class")
    inner_steps: int = Field(1, ge=1, description="at a new site too")
    inner_lr: float = Field(0.01, gt=0, le=LARGEST_RATE, description="what every rate starts at")
    rates: Literal["parameter", "layer"] = Field(
        "parameter", description="a rate for each number of the body, or for each of its arrays"
    )
    head: HeadStart = "prototypes"
    episodes: int = Field(4, ge=1, description="episodes per site and round")
    augment: Augment = "dihedral"


class FedAvgSettings(Settings):
    """McMahan et al. 2017 on the body, with a local head; new sites fine-tune."""

    TITLE: ClassVar[str] = "FedAvg"
    DELTA: ClassVar[DeltaKind] = "difference"

    name: Literal["fedavg"] = "fedavg"
    local_steps: int = Field(6, ge=1)
    local_lr: float = Field(0.3, gt=0)
    batch_size: int = Field(32, ge=1)
    augment: Augment = "dihedral"
    adapt: Annotated[AdaptSettings, changing(FINE_TUNE)] = FINE_TUNE


class MannSettings(Settings):
    """Santoro et al. 2016: a controller with a memory reads the support set as a sequence."""

    TITLE: ClassVar[str] = "memory-augmented neural network"
    DELTA: ClassVar[DeltaKind] = "gradient"

    name: Literal["mann"] = "mann"
    n_way: int = Field(
        5, ge=2, le=64, description="label slots: classes per episode, and at most at a new site"
    )
    n_shot: int = Field(
        5, ge=1, description="most support images per class; each round draws from 1 to it"
    )
    n_query: int = Field(5, ge=1, description="query images per class")
    episodes: int = Field(4, ge=1, description="episodes per site and round")
    labels_come: Literal["beside", "late"] = Field(
        "beside", description="told beside the support image, or a step later as in the paper"
    )
    hidden: int = Field(64, ge=1, le=1024, description="units of the LSTM controller")
    memory_rows: int = Field(128, ge=1, le=1024)
    memory_width: int = Field(32, ge=1, le=1024, description="values of a row of the memory")
    read_heads: int = Field(4, ge=1, le=16, description="each writes too; at most memory_rows")
    usage_decay: float = Field(0.99, ge=0, le=1, description="gamma")
    key_strength: float = Field(10.0, gt=0, description="of a cosine; in the paper 1")
    body_weight: float = Field(
        1.0, ge=0, description="of a prototypical network's loss, for the body; in the paper 0"
    )
    augment: Augment = "dihedral"

    @model_validator(mode="after")
    def _every_head_has_a_row_to_write_to(self) -> "MannSettings":
        if self.read_heads > self.memory_rows:
            raise ValueError(
                f"read_heads ({self.read_heads}) must be at most memory_rows ({self.memory_rows})"
            )
        return self


class HallucinationSettings(Settings):
    """Wang et al. 2018: prototypes of real and generated features, here against a discriminator."""

    TITLE: ClassVar[str] = "prototypical network with a generator"
    DELTA: ClassVar[DeltaKind] = "gradient"

    name: Literal["hallucination"] = "hallucination"
    n_way: int = Field(5, ge=2, description=WAYS)
    n_shot: int = Field(5, ge=1)
    n_query: int = Field(5, ge=1, description="query images per class")
    episodes: int = Field(4, ge=1, description="episodes per site and round")
    n_generated: int = Field(
        5, ge=0, le=1000, description="generated features per class; 0 is a prototypical network"
    )
    adversarial_weight: float = Field(
        0.1, ge=0, description="of the generator's loss against a discriminator; 0 has none"
    )
    latent_size: int = Field(16, ge=1, le=1024, description="values of a noise")
    hidden: int = Field(64, ge=1, le=4096, description="hidden units of both networks")
    augment: Augment = "dihedral"

    @property
    def has_discriminator(self) -> bool:
        """True when there is something to tell from real features, and it counts."""
        return self.n_generated > 0 and self.adversarial_weight > 0


LearnerSettings: TypeAlias = Annotated[
    PrototypicalSettings
    | MatchingSettings
    | RelationSettings
    | SiameseSettings
    | MannSettings
    | HallucinationSettings
    | FomamlSettings
    | MamlSettings
    | AnilSettings
    | MetaSgdSettings
    | ReptileSettings
    | FedAvgSettings,
    Field(discriminator="name"),
]
