"""The row of the learner that reads its support as a sequence: memory-augmented networks.

One training, on supports of one to five images of a class, serves both columns. In full, controller
and memory are as large as the paper's.
"""

from metaward.learner_settings import MannSettings
from omniglot.recipe import ADAM, FIVE_WAY, SMALL_STRIDED, STRIDED, Row, plan


def _mann(*, episodes: int, hidden: int) -> MannSettings:
    """Return a network with a slot for each of five ways, and a row for each image and head."""
    return MannSettings(
        n_way=5,
        n_shot=5,
        n_query=2,
        episodes=episodes,
        hidden=hidden,
        memory_rows=128,
        read_heads=4,
        augment="none",
    )


MANN = Row(
    name="mann",
    title="Memory-augmented network",
    published=("mann",),
    quick=(
        plan(_mann(episodes=32, hidden=64), FIVE_WAY, SMALL_STRIDED, ADAM, steps=500, budget_s=300),
    ),
    full=(
        plan(_mann(episodes=16, hidden=200), FIVE_WAY, STRIDED, ADAM, steps=3000, budget_s=6000),
    ),
)
"""With 20 ways there is no figure to hold it against, and theta would need 20 slots."""
