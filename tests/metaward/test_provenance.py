"""Promises of the provenance that reports carry."""

import platform
import subprocess

import pytest

from metaward.provenance import NO_COMMIT, commit, machine, versions


def git(folder, *arguments):
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    done = subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "code.py").write_text("x = 1\n")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


def test_a_tracked_file_has_the_commit_of_its_checkout(checkout):
    assert commit(checkout / "code.py") == git(checkout, "rev-parse", "HEAD")


def test_changes_to_tracked_files_are_said_and_new_files_are_not_changes(checkout):
    (checkout / "run.json").write_text("{}")
    assert not commit(checkout / "code.py").endswith("+changes")
    (checkout / "code.py").write_text("x = 2\n")
    assert commit(checkout / "code.py").endswith("+changes")


def test_a_file_that_git_does_not_track_has_no_commit(checkout):
    (checkout / "site-packages").mkdir()
    (checkout / "site-packages" / "module.py").write_text("")
    assert commit(checkout / "site-packages" / "module.py") == NO_COMMIT


def test_without_git_there_is_no_commit(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert commit(checkout / "code.py") == NO_COMMIT


def test_versions_name_metaward_torch_and_python():
    found = versions()
    assert found["python"] == platform.python_version()
    assert {"metaward", "torch", "numpy"} <= found.keys()


def test_the_machine_is_described_without_its_name():
    assert "cores" in machine()
    assert platform.node() not in machine()
