"""What the papers report for Omniglot, in per cent, and under which protocol.

`unchecked` names the figures that were not seen in the paper's own table. The protocols are not
one: characters are split at random by some and by a list by others, rotations are classes or mere
augmentation, and `transductive` results classify the queries of an episode together, through batch
statistics. Ours never do. Whether Meta-SGD's and ANIL's are was not seen. ANIL's paper gives
deviations over three seeds (0.5 and 0.3), which are no intervals. MANN's are of the second and the
fifth presentation of a class in a sequence: after one image of it, and after four.
"""

from dataclasses import dataclass

from omniglot.episodes import Setting

SETTINGS = (Setting(5, 1), Setting(5, 5), Setting(20, 1), Setting(20, 5))
"""The columns of the papers' tables, in their order."""

Figure = tuple[float, float | None]
"""Mean accuracy and the published reach of its interval (None: none is given), in per cent."""


@dataclass(frozen=True)
class Published:
    """One row of a paper's table; figures in the order of `SETTINGS`, None where there is none."""

    method: str
    source: str
    figures: tuple[Figure | None, Figure | None, Figure | None, Figure | None]
    transductive: bool | None = False
    """None: it was not seen."""
    unchecked: tuple[Setting, ...] = ()

    def at(self, setting: Setting) -> Figure | None:
        """Return the figure of a column."""
        return self.figures[SETTINGS.index(setting)]


REPTILE_PAPER = "Nichol et al. 2018, arXiv:1803.02999, table 2"
MAML_PAPER = "Finn et al. 2017, arXiv:1703.03400, table 1"
SNELL_PAPER = "Snell et al. 2017, arXiv:1703.05175, table 1"
VINYALS_PAPER = "Vinyals et al. 2016, arXiv:1606.04080, table 1"
SUNG_PAPER = "Sung et al. 2018, arXiv:1711.06025, table 1"
META_SGD_PAPER = "Li et al. 2017, arXiv:1707.09835, table 2"
ANIL_PAPER = "Raghu et al. 2020, arXiv:1909.09157, table 2"

PUBLISHED = {
    "prototypical": Published(
        "Prototypical networks",
        SNELL_PAPER,
        ((98.8, None), (99.7, None), (96.0, None), (98.9, None)),
    ),
    "fomaml-transductive": Published(
        "1st-order MAML + transduction",
        REPTILE_PAPER,
        ((98.3, 0.5), (99.2, 0.2), (89.4, 0.5), (97.9, 0.1)),
        transductive=True,
    ),
    "reptile": Published(
        "Reptile",
        REPTILE_PAPER,
        ((95.39, 0.09), (98.90, 0.10), (88.14, 0.15), (96.65, 0.33)),
    ),
    "reptile-transductive": Published(
        "Reptile + transduction",
        REPTILE_PAPER,
        ((97.68, 0.04), (99.48, 0.06), (89.43, 0.14), (97.12, 0.32)),
        transductive=True,
    ),
    "maml": Published(
        "MAML",
        MAML_PAPER,
        ((98.7, 0.4), (99.9, 0.1), (95.8, 0.3), (98.9, 0.2)),
        transductive=True,
    ),
    "matching": Published(
        "Matching networks",
        VINYALS_PAPER,
        ((98.1, None), (98.9, None), (93.8, None), (98.5, None)),
    ),
    "siamese": Published(
        "Convolutional Siamese net",
        f"{MAML_PAPER} (after Koch et al. 2015)",
        ((97.3, None), (98.4, None), (88.2, None), (97.0, None)),
    ),
    "relation": Published(
        "Relation networks",
        SUNG_PAPER,
        ((99.6, 0.2), (99.8, 0.1), (97.6, 0.2), (99.1, 0.1)),
        unchecked=(Setting(5, 5), Setting(20, 5)),
    ),
    "meta-sgd": Published(
        "Meta-SGD",
        META_SGD_PAPER,
        ((99.53, 0.26), (99.93, 0.09), (95.93, 0.38), (98.97, 0.19)),
        transductive=None,
        unchecked=SETTINGS,
    ),
    "anil": Published(
        "ANIL",
        ANIL_PAPER,
        (None, None, (96.2, None), (98.0, None)),
        transductive=None,
    ),
    "mann": Published(
        "MANN (no convolution)",
        f"{MAML_PAPER} (after Santoro et al. 2016)",
        ((82.8, None), (94.9, None), None, None),
    ),
}
