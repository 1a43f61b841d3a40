"""The row of the learner that reads its support as a sequence: memory-augmented networks.

Training for five images begins where training for one ended: to read many images takes longer to
learn, and from nothing most of the steps pass before anything is remembered. In full, controller
and memory are as large as the paper's.
"""

from metaward.learner_settings import MannSettings
from metaward.study import ModelSettings
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


def _plans(
    model: ModelSettings, steps: tuple[int, int], *, episodes: int, hidden: int, budget_s: float
) -> tuple[Plan, Plan]:
    """Return a training for each 5-way column; for 20 ways there is no figure to hold it against.

    Args:
        model: The body.
        steps: With one image, and then with up to five.
        episodes: Of a step.
        hidden: Units of the controller.
        budget_s: Of each of the two.
    """
    single, several = (
        plan(
            _mann(column, episodes=episodes, hidden=hidden),
            (column,), model, ADAM, steps=of_column, budget_s=budget_s,
        )
        for column, of_column in zip(FIVE_WAY, steps, strict=True)
    )  # fmt: skip
    return single, after(several, single)


MANN = Row(
    name="mann",
    title="Memory-augmented network",
    published=("mann",),
    quick=_plans(SMALL_STRIDED, (550, 450), episodes=32, hidden=64, budget_s=300),
    full=_plans(STRIDED, (3000, 4500), episodes=16, hidden=200, budget_s=3000),
)
