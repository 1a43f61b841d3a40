from pathlib import Path

import pytest

from metaward.errors import ConfigError
from metaward_client.privacy.policy import BlockPolicy, NoPrivacy
from metaward_client.site_config import read_policy, read_site_config


def _site(folder: Path, text: str) -> Path:
    (folder / "images").mkdir(exist_ok=True)
    (folder / "site.yaml").write_text(text)
    return folder / "site.yaml"


def test_paths_start_at_the_folder_of_the_file(tmp_path: Path) -> None:
    text = "name: north\ndata: {root: images, labels: l.csv}\ncache: ../cache\n"
    config = read_site_config(_site(tmp_path, text))
    assert config.data.root == tmp_path / "images"
    assert config.data.labels == tmp_path / "l.csv"
    assert config.cache == tmp_path.parent / "cache"
    assert config.data.key == "sop_instance_uid"
    assert config.data.label == "label"
    assert (config.preprocess.size, config.preprocess.channels) == (32, 1)


def test_a_folder_with_a_site_file_is_that_site(tmp_path: Path) -> None:
    _site(tmp_path, "name: north\ndata: {root: images}\n")
    assert read_site_config(tmp_path).name == "north"


def test_a_folder_with_a_label_table_needs_no_site_file(tmp_path: Path) -> None:
    folder = tmp_path / "St. Mary's (2024)"
    folder.mkdir()
    (folder / "labels.csv").write_text("")
    config = read_site_config(folder)
    assert config.name == "st-mary-s-2024"
    assert config.data.root == folder
    assert config.data.labels == folder / "labels.csv"


def test_a_folder_without_a_table_has_folders_as_labels(tmp_path: Path) -> None:
    assert read_site_config(tmp_path).data.labels is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: north\ndata: {root: nowhere}\n", r"no folder of that name.*data\.root"),
        ("name: north\ndata: {root: images, lables: x}\n", r"lables.*did you mean 'labels'"),
        ("name: North!\ndata: {root: images}\n", r"name: must be a-z, 0-9 and hyphen"),
        ("name: north\ndata: {root: images, key: uid}\n", r"data\.key.*found 'uid'"),
        ("name: north\ndata: {root: images}\nprivacy: {}\n", r"privacy"),
        (
            "name: n\ndata: {root: images}\npreprocess: {window: {center: 40, width: 0}}\n",
            r"greater than 0",
        ),
        ("name: north\ndata: {root: 5}\n", r"data\.root"),
        (
            "name: north\ndata: {root: images, label: finding}\n",
            r"line 2, data: label \(finding\) is a column of a table, and labels names none",
        ),
        ("name: north\ndata: {root: images, key: path}\n", r"key \(path\) is a column"),
    ],
)
def test_a_wrong_key_or_value_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_site_config(_site(tmp_path, text))
    error = f"{caught.value} {caught.value.where}".replace("\n", " ")
    import re

    assert re.search(message, error), error


def test_a_missing_path_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_site_config(tmp_path / "nowhere")


def test_a_folder_whose_links_lead_to_one_another_is_a_missing_one(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ConfigError, match="no folder of that name"):
        read_site_config(_site(tmp_path, "name: north\ndata: {root: loop}\n"))


@pytest.mark.parametrize(
    "text",
    [
        "data: {root: ~nobody-of-that-name/images}\n",
        "data: {root: images}\n"
        "privacy: {mechanism: block, target_epsilon: 8, target_delta: 1.0e-5, population: 100,"
        " ledger: ~nobody-of-that-name/ledger}\n",
        "data: {root: images, labels: l.csv, key: patient_id, pacs: {protocol: dicomweb,"
        " url: 'https://pacs', ca: ~nobody-of-that-name/ca.crt}}\n",
    ],
)
def test_the_home_of_a_user_who_is_not_known_is_a_configuration_error(
    tmp_path: Path, text: str
) -> None:
    with pytest.raises(ConfigError, match="a user who is not known here"):
        read_site_config(_site(tmp_path, f"name: north\n{text}"))


BLOCK = (
    "privacy: {mechanism: block, target_epsilon: 8, target_delta: 1.0e-5, population: 100,"
    " ledger: ../books/north, witness: ../seals/north}\n"
)
SITE = "name: north\ndata: {root: images}\n"


def test_the_policy_stands_in_the_site_file_with_paths_from_its_folder(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    policy = read_policy(_site(tmp_path / "site", SITE + BLOCK))
    assert isinstance(policy, BlockPolicy)
    assert policy.ledger == tmp_path / "books" / "north"
    assert policy.witness == tmp_path / "seals" / "north"
    assert read_site_config(tmp_path / "site").privacy == policy


def test_no_mechanism_has_to_be_written_down(tmp_path: Path) -> None:
    path = _site(tmp_path, SITE)
    assert read_site_config(path).privacy is None
    with pytest.raises(ConfigError, match="no privacy policy"):
        read_policy(path)
    assert isinstance(
        read_policy(_site(tmp_path, SITE + "privacy: {mechanism: none}\n")), NoPrivacy
    )


def test_a_folder_without_a_site_file_has_no_policy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no privacy policy"):
        read_policy(tmp_path)


@pytest.mark.parametrize("mechanism", ["block", "dp-sgd"])
def test_a_site_computes_on_an_accelerator_unless_its_mechanism_is_dp_sgd(
    tmp_path: Path, mechanism: str
) -> None:
    privacy = BLOCK.replace("block", mechanism)
    if mechanism == "dp-sgd":
        privacy = privacy.replace("}", ", labels: [a, b]}")
    path = _site(tmp_path, SITE + privacy + "device: cuda\n")
    if mechanism == "block":
        assert read_site_config(path).device == "cuda"
        return
    with pytest.raises(ConfigError, match="dp-sgd with device cuda: its proof holds on a CPU"):
        read_site_config(path)
    assert read_site_config(_site(tmp_path, SITE + privacy)).device == "cpu"
