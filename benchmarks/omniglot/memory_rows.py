"""The row of the learner that reads its support as a sequence: memory-augmented networks.

Training for five images begins where training for one ended: to read many images takes longer to
learn, and from nothing most of the steps pass before anything is remembered.
"""

from metaward.learner_settings import MannSettings
from omniglot.episodes import Setting
from omniglot.recipe import ADAM, FIVE_WAY, SMALL_STRIDED, STRIDED, Plan, Row, after, plan

HEADS = 4


def _mann(column: Setting, *, episodes: int, hidden: int) -> MannSettings:
    """Return a network that reads up to as many images of a class as in its column."""
    return MannSettings(
        n_way=column.n_way,
        n_shot=column.n_shot,
        n_query=2,
        episodes=episodes,
        hidden=hidden,
        memory_rows=max(128, HEADS * column.n_way * column.n_shot),
        read_heads=HEADS,
        augment="none",
    )


def _quick() -> tuple[Plan, ...]:
    single, several = (
        plan(
            _mann(column, episodes=32, hidden=64),
            (column,), SMALL_STRIDED, ADAM, steps=steps, budget_s=300,
        )
        for column, steps in zip(FIVE_WAY, (550, 450), strict=True)
    )  # fmt: skip
    return single, after(several, single)


def _full() -> tuple[Plan, ...]:
    """Return a training for each 5-way column; controller and memory are as large as the paper's.

    For 20 ways there is no figure to hold it against.
    """
    single, several = (
        plan(
            _mann(column, episodes=16, hidden=200),
            (column,), STRIDED, ADAM, steps=steps, budget_s=3000,
        )
        for column, steps in zip(FIVE_WAY, (3000, 4500), strict=True)
    )  # fmt: skip
    return single, after(several, single)


MANN = Row(
    name="mann",
    title="Memory-augmented network",
    published=("mann",),
    quick=_quick(),
    full=_full(),
)
