"""Omniglot is read in both forms, and drawn from so that nothing is on two sides."""

from pathlib import Path

import numpy as np
import pytest
import torch

from metaward.errors import DataError
from omniglot.characters import SIZE, Characters, load_characters
from omniglot.episodes import (
    Classes,
    Setting,
    both_sides,
    drawn_episode,
    drawn_task,
    whole_task,
)

N_CHARACTERS, N_DRAWERS = 12, 6


@pytest.fixture
def characters() -> Characters:
    """Drawings in which every pixel tells which drawing it is."""
    numbers = np.arange(N_CHARACTERS * N_DRAWERS, dtype=np.uint8)
    images = np.zeros((N_CHARACTERS, N_DRAWERS, SIZE, SIZE), dtype=np.uint8)
    images[..., 0, 0] = 255  # a corner, so that quarter turns can be told apart
    images[..., 5:9, 5:9] = (numbers + 1).reshape(N_CHARACTERS, N_DRAWERS, 1, 1)
    names = tuple(f"A/{number:02d}" for number in range(N_CHARACTERS))
    return Characters(images, names, n_background=8)


def as_npz(characters: Characters, path: Path) -> Path:
    """Write the other form: drawings mixed among characters, characters in another order."""
    n, drawers = characters.images.shape[:2]
    character, drawer = np.divmod(np.random.default_rng(0).permutation(n * drawers), drawers)
    order = np.argsort(drawer, kind="stable")
    character, drawer = character[order], drawer[order]
    numbering = np.random.default_rng(1).permutation(n)
    names = np.empty(n, dtype=object)
    names[numbering] = characters.names
    np.savez(
        path,
        images=characters.images[character, drawer],
        character=numbering[character].astype(np.int16),
        is_evaluation=character >= characters.n_background,
        character_names=names.astype(str),
    )
    return path


def test_the_public_archives_are_read_in_one_order(archives: Path) -> None:
    found = load_characters(archives)
    assert found.names == (
        "Angelic/character01", "Angelic/character02", "Angelic/character03",
        "Greek/character01", "Greek/character02", "Greek/character03",
        "Tengwar/character01", "Tengwar/character02", "Tengwar/character03",
    )  # fmt: skip
    assert found.n_background == 6
    assert found.images.shape == (9, 4, SIZE, SIZE)


def test_ink_is_white_and_a_drawing_keeps_its_place(archives: Path) -> None:
    # Greek/character02 is a block of 24 pixels at column 8 * (15 % 7 + 1) = 16 of 105, its third
    # drawing at row 8: 4 and 2 pixels of 28, and 6 long.
    image = load_characters(archives).images[4, 2]
    inside = image[3:8, 5:10]
    assert inside.min() > 240  # the filter rings a little
    assert image.sum() == pytest.approx(255 * (24 * 28 / 105) ** 2, rel=0.02)
    rows, columns = np.nonzero(image > 127)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (2, 8, 4, 10)


def test_both_forms_give_the_same(archives: Path, tmp_path: Path) -> None:
    found = load_characters(archives)
    again = load_characters(as_npz(found, tmp_path / "omniglot_28.npz"))
    assert again.names == found.names
    assert again.n_background == found.n_background
    assert np.array_equal(again.images, found.images)
    assert load_characters(tmp_path).names == found.names


def test_a_folder_without_it_says_what_should_be_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no Omniglot"):
        load_characters(tmp_path)


def test_an_archive_that_is_not_whole_is_refused(characters: Characters, tmp_path: Path) -> None:
    path = as_npz(characters, tmp_path / "omniglot_28.npz")
    with np.load(path) as file:
        short = {k: v[1:] if k != "character_names" else v for k, v in file.items()}
    np.savez(path, **short)
    with pytest.raises(DataError, match="characters with 5, 6 drawings"):
        load_characters(path)


def test_no_character_is_on_both_sides_of_a_split(characters: Characters) -> None:
    assert characters.cut("background") == 8
    assert characters.cut("vinyals") == 1200
    train, test = both_sides(characters, characters.cut("background"))
    assert len(train) == 4 * 8
    assert len(test) == 4 * 4
    seen = {int(image[6, 6]) for image in train.images.reshape(-1, SIZE, SIZE)}
    assert not seen & {int(image[6, 6]) for image in test.images.reshape(-1, SIZE, SIZE)}


def test_the_quarter_turns_of_a_character_are_four_classes(characters: Characters) -> None:
    classes = Classes(characters.images)
    corners = [tuple(np.argwhere(classes.drawings(4 + turns)[0] == 1)[0]) for turns in range(4)]
    assert corners == [(0, 0), (27, 0), (27, 27), (0, 27)]
    assert np.array_equal(classes.drawings(4), characters.images[1] / np.float32(255))
    assert classes.drawings(4).dtype == np.float32


def test_a_task_is_different_classes_with_a_patient_for_each_drawing(
    characters: Characters,
) -> None:
    classes = Classes(characters.images)
    task = drawn_task(classes, 10, np.random.default_rng(0))
    assert len(set(task.label_names)) == 10
    assert task.n_patients == task.n_images == 10 * N_DRAWERS
    for label, name in enumerate(task.label_names):
        mine = task.images[task.labels == label][:, 0]
        assert np.array_equal(mine, classes.drawings(int(name)))


def test_on_an_accelerator_one_task_holds_all_classes_and_is_made_once(
    characters: Characters,
) -> None:
    classes = Classes(characters.images)
    tasks = whole_task(classes, torch.device("meta"))
    one, other = (next(tasks(np.random.default_rng(seed))) for seed in range(2))
    assert one is other
    assert one.label_names == tuple(map(str, range(len(classes))))
    assert one.n_patients == one.n_images == len(classes) * N_DRAWERS
    assert np.array_equal(one.images[one.labels == 5][:, 0], classes.drawings(5))
    assert one.take(np.arange(2)).device.type == "meta"


def test_every_class_is_drawn_sooner_or_later(characters: Characters) -> None:
    classes, rng = Classes(characters.images), np.random.default_rng(0)
    drawn = {name for _ in range(60) for name in drawn_task(classes, 5, rng).label_names}
    assert drawn == {str(number) for number in range(len(classes))}


@pytest.mark.parametrize("setting", [Setting(5, 1), Setting(20, 5)], ids=str)
def test_a_test_episode_has_different_classes_and_no_drawing_twice(setting: Setting) -> None:
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (N_CHARACTERS, 8, SIZE, SIZE), dtype=np.uint8)
    episode = drawn_episode(Classes(images), setting, 3, seed=1, number=0)
    support, query = episode.support, episode.query
    assert support.labels.tolist() == sorted(list(range(setting.n_way)) * setting.n_shot)
    assert query.labels.tolist() == sorted(list(range(setting.n_way)) * 3)
    every = torch.cat([support.images, query.images]).flatten(1)
    assert len(torch.unique(every, dim=0)) == len(every)
    torch.testing.assert_close(every.mean(1), torch.zeros(len(every)), atol=1e-5, rtol=0)


def test_support_and_query_of_a_class_are_drawings_of_that_class(characters: Characters) -> None:
    # Only the class's own four turns have its drawings; the darkness of the block is its number.
    episode = drawn_episode(Classes(characters.images), Setting(4, 2), 4, seed=1, number=7)
    for label in range(4):
        turned = torch.cat(
            [side.images[side.labels == label] for side in (episode.support, episode.query)]
        )
        corners = {tuple(torch.nonzero(image[0] == image.max())[0].tolist()) for image in turned}
        assert len(corners) == 1
        assert len(torch.unique(turned.flatten(1), dim=0)) == N_DRAWERS


def test_an_episode_depends_on_seed_setting_and_number_alone(characters: Characters) -> None:
    classes = Classes(characters.images)

    def images(setting: Setting, seed: int, number: int) -> torch.Tensor:
        episode = drawn_episode(classes, setting, 2, seed=seed, number=number)
        return torch.cat([episode.support.images, episode.query.images])

    first = images(Setting(5, 1), 1, 0)
    assert torch.equal(first, images(Setting(5, 1), 1, 0))
    assert not torch.equal(first, images(Setting(5, 1), 2, 0))
    assert not torch.equal(first, images(Setting(5, 1), 1, 1))
