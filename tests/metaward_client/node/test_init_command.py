"""`metaward site init` writes a site that can be read, or nothing."""

from pathlib import Path

import pytest

from metaward.cli import run
from metaward.enrolment import read_request
from metaward_client.site_config import read_site_config


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


@pytest.fixture
def site(tmp_path: Path, images: Path) -> Path:
    folder = tmp_path / "north"
    assert run(["site", "init", str(folder), "--name", "north", "--images", str(images)]) == 0
    return folder


def test_init_writes_settings_that_can_be_read_and_a_request_that_is_valid(
    site: Path, images: Path
) -> None:
    config = read_site_config(site)
    assert (config.name, config.data.root, config.privacy) == ("north", images, None)
    assert read_request(site / "node" / "enrolment.yaml").hospital == "north"


def test_init_leaves_a_site_that_stands_as_it_is(tmp_path: Path, images: Path) -> None:
    text = "name: north\ndata: {root: images}\n"
    (tmp_path / "site.yaml").write_text(text)
    assert run(["site", "init", str(tmp_path), "--name", "north"]) == 0
    assert (tmp_path / "site.yaml").read_text() == text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["new", "--name", "north"], "no --images"),
        (["new", "--name", "North!", "--images", "images"], "name"),
        (["new", "--name", "north", "--images", "nowhere"], "no folder of that name"),
        ([".", "--name", "south"], "the site is called north"),
    ],
)
def test_init_says_what_is_missing_and_makes_no_key(
    tmp_path: Path,
    images: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "site.yaml").write_text("name: north\ndata: {root: images}\n")
    assert run(["site", "init", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.rglob("node.key"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"--name": "North Clinic"},
        {"--name": "north: x"},
        {"--images": "/nope"},
        {"--labels": "/labels\udcff.csv"},
    ],
)
def test_what_was_refused_leaves_nothing_and_the_corrected_command_works(
    tmp_path: Path, images: Path, wrong: dict[str, str]
) -> None:
    right = {"--name": "north", "--images": str(images)}

    def init(options: dict[str, str]) -> int:
        typed = [part for option in options.items() for part in option]
        return run(["site", "init", str(tmp_path / "s1"), *typed])

    assert init(right | wrong) == 2
    assert not (tmp_path / "s1").exists()
    assert init(right) == 0


@pytest.mark.parametrize("name", ["no", "on", "123", "1e5", "null"])
def test_a_name_that_yaml_would_read_as_something_else_stays_a_name(
    tmp_path: Path, images: Path, name: str
) -> None:
    assert run(["site", "init", str(tmp_path / "s"), "--name", name, "--images", str(images)]) == 0
    assert read_site_config(tmp_path / "s").name == name


@pytest.mark.parametrize(
    "name", ["img # x", "img: y", "img'z", 'img"', "img\\n", "img\nlabels: x", "ü 😀", "{img}"]
)
def test_the_folder_that_was_named_is_the_one_that_is_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "img").mkdir()
    images = tmp_path / name
    images.mkdir()
    labels = tmp_path / f"{name}.csv"
    folder = tmp_path / "north"
    options = ["--name", "north", "--images", str(images), "--labels", str(labels)]
    assert run(["site", "init", str(folder), *options]) == 0
    data = read_site_config(folder).data
    assert (data.root, data.labels) == (images, labels)


def test_the_commented_policy_is_valid_as_soon_as_its_signs_are_taken_away(site: Path) -> None:
    head, key, policy = (site / "site.yaml").read_text().partition("# privacy:")
    lines = (key + policy).splitlines()
    (site / "site.yaml").write_text(head + "\n".join(line.removeprefix("# ") for line in lines))
    privacy = read_site_config(site).privacy
    assert privacy is not None
    assert privacy.mechanism == "dp-sgd"
    assert privacy.ledger == site / "ledger"


@pytest.mark.parametrize("option", ["--images", "--labels"])
def test_a_site_yaml_that_says_something_else_is_not_passed_over_in_silence(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "site.yaml").write_text("name: north\ndata: {root: images}\n")
    command = ["site", "init", str(tmp_path), "--name", "north", option]
    assert run([*command, str(tmp_path / "other")]) == 2
    said = capsys.readouterr().err
    assert "site.yaml is there" in said
    assert f"Change data.{'root' if option == '--images' else 'labels'} in site.yaml" in said
    assert not list(tmp_path.rglob("node.key"))


def test_the_same_values_again_are_no_difference(tmp_path: Path, images: Path) -> None:
    (tmp_path / "site.yaml").write_text("name: north\ndata: {root: images, labels: t.csv}\n")
    options = ["--images", str(images), "--labels", str(tmp_path / "t.csv")]
    assert run(["site", "init", str(tmp_path), "--name", "north", *options]) == 0
