"""Container files, compose file, scripts: hardened, in step with one another and the CLI."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from packaged_files import (
    CONTAINERS,
    DEPLOY,
    MANIFESTS,
    PORT,
    ROLES,
    ROOT,
    STATE,
    accepted,
    last,
    parse_command,
    services,
    tool,
)

# --- container files -----------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
def test_an_image_runs_as_a_user_of_its_own_that_is_not_root(role: str) -> None:
    user, group = last(role, "USER").split(":")
    assert int(user) > 0
    assert int(group) > 0
    assert f"useradd --uid {user} --gid {group} " in last(role, "RUN")


@pytest.mark.parametrize("role", ROLES)
def test_an_image_starts_its_role_and_asks_for_its_health_in_the_volume(role: str) -> None:
    start = json.loads(last(role, "CMD"))
    health = json.loads(last(role, "HEALTHCHECK").partition("CMD ")[2])
    assert health[0] == json.loads(last(role, "ENTRYPOINT"))[0]
    assert [start[1], health[2]] == ["start", "health"]
    assert start[0] == health[1] == {"coordinator": "server", "hospital": "site"}[role]
    assert start[2] == health[3]
    for arguments in (start, health[1:]):
        parse_command(arguments)
    assert json.loads(last(role, "VOLUME")) == [STATE]
    assert start[2].startswith(f"{STATE}/")


@pytest.mark.parametrize("role", ROLES)
def test_an_image_is_made_of_files_with_known_hashes_and_nothing_from_a_network(role: str) -> None:
    run = last(role, "RUN")
    assert "sha256sum --quiet --check SHA256SUMS" in run
    installs = [part for part in run.split("&&") if "pip install" in part]
    assert installs
    for install in installs:
        assert {"--no-index", "--require-hashes"} <= set(shlex.split(install))
    assert not re.search(r"apt|curl|wget|http", run)


def test_hadolint_finds_nothing_wrong_with_the_container_files() -> None:
    accepted(tool("hadolint"), *CONTAINERS)


def test_every_image_is_named_with_its_version() -> None:
    text = "".join(path.read_text() for path in [*CONTAINERS, DEPLOY / "compose.yaml", *MANIFESTS])
    images = re.findall(r"^ARG \w+=(\S+)$|image: (?:\$\{\w+:-)?([^\s}]+)", text, re.M)
    names = [re.fullmatch(r"([^:@]+)(.*)", a or b).groups() for a, b in images]  # type: ignore[union-attr]
    assert len(names) == 3 + 2 + 2
    for name, tag in names:
        assert re.fullmatch(r":\d[\w.-]*|@sha256:[0-9a-f]{64}", tag), name + tag
        if "metaward" in name:
            [version] = re.findall(
                r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M
            )
            assert tag == f":{version}", name + tag


# --- compose -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", services())
def test_a_service_is_hardened(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert service["pids_limit"] > 0
    assert service["init"] is True
    assert [mount.partition(":")[0] for mount in service["tmpfs"]] == ["/tmp"]
    assert not service.keys() & {"privileged", "user", "network_mode", "pid", "devices"}


@pytest.mark.parametrize("name", services())
def test_no_service_has_anything_in_its_environment(name: str) -> None:
    assert not services()[name].keys() & {"environment", "env_file", "secrets"}


def test_a_service_writes_to_one_volume_and_a_hospitals_images_are_read_only() -> None:
    for name, service in services().items():
        assert [mount for mount in service["volumes"] if not mount.endswith(":ro")] == [
            f"{name}:{STATE}"
        ]
    read_only = [m for s in services().values() for m in s["volumes"] if m.endswith(":ro")]
    assert read_only == [f"${{HOSPITALS:-./hospitals}}/{x}:/data:ro" for x in ("north", "south")]


def test_hospitals_have_no_way_out_and_nothing_comes_in() -> None:
    networks = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["networks"]
    for name in ("north", "south"):
        assert "ports" not in services()[name]
        assert [networks[one]["internal"] for one in services()[name]["networks"]] == [True]
    [port] = services()["coordinator"]["ports"]
    assert port == f"${{LISTEN:-127.0.0.1:{PORT}}}:{PORT}"


def test_the_compose_file_follows_its_specification() -> None:
    schema = "vendor.compose-spec"
    accepted(tool("check-jsonschema"), "--builtin-schema", schema, DEPLOY / "compose.yaml")


# --- scripts and names ---------------------------------------------------------------------------


def test_every_file_that_the_packaging_names_is_there() -> None:
    files = [*CONTAINERS, DEPLOY / "compose.yaml", *MANIFESTS, *(ROOT / "scripts").glob("*.sh")]
    text = "\n".join(path.read_text() for path in files)
    named = set(re.findall(r"(?<![\w/.])((?:deploy|docs|scripts)/[\w./-]*\w)", text))
    assert {"scripts/wheelhouse.sh", "deploy/containers/base.Containerfile"} <= named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_shellcheck_finds_nothing_wrong_with_the_scripts() -> None:
    accepted(tool("shellcheck"), *(ROOT / "scripts").glob("*.sh"))


def test_a_wheelhouse_is_for_a_role_and_for_a_new_folder(tmp_path: Path) -> None:
    script = [str(ROOT / "scripts/wheelhouse.sh")]
    unknown = subprocess.run([*script, "nurse", str(tmp_path)], capture_output=True, check=False)
    assert (unknown.returncode, b"coordinator|hospital" in unknown.stderr) == (2, True)
    (tmp_path / "torch-0.whl").touch()
    used = subprocess.run([*script, "hospital", str(tmp_path)], capture_output=True, check=False)
    assert (used.returncode, b"is not empty" in used.stderr) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["torch-0.whl"]


@pytest.mark.slow
def test_the_bill_of_materials_names_every_package_and_is_the_same_again(tmp_path: Path) -> None:
    tool("cyclonedx-py")
    made = [tmp_path / "first.json", tmp_path / "second.json"]
    for path in made:
        accepted(ROOT / "scripts/sbom.sh", path, sys.executable)
    first, second = (path.read_bytes() for path in made)
    assert first == second
    content = json.loads(first)
    assert content["specVersion"] == "1.6"
    assert content["metadata"]["component"]["name"] == "metaward"
    named = {component["name"].lower() for component in content["components"]}
    assert {"torch", "flwr", "opacus", "pydicom"} <= named


@pytest.mark.slow
@pytest.mark.skipif("METAWARD_WHEELHOUSE" not in os.environ, reason="METAWARD_WHEELHOUSE: a folder")
def test_a_wheelhouse_is_installed_without_a_network(tmp_path: Path) -> None:
    wheels = Path(os.environ["METAWARD_WHEELHOUSE"]).absolute()
    cut_off = ["unshare", "--net", "--map-root-user"]
    if subprocess.run([*cut_off, "true"], check=False).returncode != 0:
        pytest.skip("unshare --net is not allowed here")
    accepted(sys.executable, "-m", "venv", tmp_path / "venv")
    pip = [*cut_off, "env", "PIP_CONFIG_FILE=/dev/null", tmp_path / "venv/bin/python", "-m", "pip"]
    wanted = ["--requirement", wheels / "requirements.txt"]
    accepted(*pip, "install", "--no-index", "--find-links", wheels, "--require-hashes", *wanted)
    accepted(*pip, "check")
    accepted(*cut_off, tmp_path / "venv/bin/metaward", "--version")
