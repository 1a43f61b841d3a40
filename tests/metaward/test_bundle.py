"""The bundle: references to installed code, the same bytes each time, and no code."""

import io
import tomllib
import zipfile
from importlib import import_module
from importlib.metadata import version

from metaward.bundle import APP_FOLDER, bundle, digest_of


def content_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_bundle_holds_no_code() -> None:
    assert set(content_of(bundle())) == {"pyproject.toml", ".info/CONTENT"}


def test_a_release_has_one_bundle_and_it_is_what_flower_sends() -> None:
    from flwr.cli.build import build_fab_from_disk

    assert digest_of(bundle()) == digest_of(bundle()) == digest_of(build_fab_from_disk(APP_FOLDER))


def test_the_bundle_refers_to_apps_that_are_there_and_to_this_version() -> None:
    project = tomllib.loads((APP_FOLDER / "pyproject.toml").read_text())
    assert project["project"]["version"] == version("metaward")
    for reference in project["tool"]["flwr"]["app"]["components"].values():
        module, _, name = reference.partition(":")
        assert hasattr(import_module(module), name)
