"""What a row of the papers' tables trains, and what it is scored in."""

from metaward.learner_settings import MannSettings
from omniglot.published import PUBLISHED, SETTINGS
from omniglot.recipe import FIVE_WAY
from omniglot.rows import ROWS


def test_every_row_is_whole() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert set(row.published) <= set(PUBLISHED)
        for plans in (row.quick, row.full):
            columns = [column for plan in plans for column in plan.columns]
            assert len(columns) == len(set(columns))
            assert set(columns) <= set(SETTINGS)
        asked = {column for plan in row.full for column in plan.columns}
        assert asked == set(FIVE_WAY if row.name == "mann" else SETTINGS)
        assert SETTINGS[0] in row.quick[0].columns


def test_no_row_augments_beyond_the_quarter_turns_or_has_statistics_of_a_batch() -> None:
    for row in ROWS:
        for plan in (*row.quick, *row.full):
            assert plan.training.study.learner.model_dump().get("augment", "none") == "none"
            assert plan.training.study.model.image_size == 28


def test_a_generator_is_measured_against_the_same_training_without_one() -> None:
    with_one, without = (
        next(row for row in ROWS if row.name == name) for name in ("hallucination", "prototypical")
    )
    for ours, peers in ((with_one.quick, without.quick), (with_one.full, without.full)):
        assert [plan.columns for plan in ours] == [plan.columns for plan in peers]
        for one, peer in zip(ours, peers, strict=True):
            learner, plain = one.training.study.learner, peer.training.study.learner
            same = {"n_way", "n_shot", "n_query", "episodes", "augment"}
            assert learner.model_dump(include=same) == plain.model_dump(include=same)
            study = peer.training.study.model_copy(update={"learner": learner})
            assert one.training == peer.training.model_copy(update={"study": study})


def test_a_memory_has_a_slot_for_each_way_of_its_columns_and_rows_for_every_image() -> None:
    mann = next(row for row in ROWS if row.name == "mann")
    for plan in (*mann.quick, *mann.full):
        learner = plan.training.study.learner
        assert isinstance(learner, MannSettings)
        for column in plan.columns:
            assert column.n_way == learner.n_way
            assert column.n_shot <= learner.n_shot
            assert learner.memory_rows >= learner.read_heads * column.n_way * column.n_shot
