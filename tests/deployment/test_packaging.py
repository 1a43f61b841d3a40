"""Container files, compose file, manifests: hardened, in step with one another and the CLI."""

import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import yaml

from metaward.cli import build_app

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CONTAINERS = sorted((DEPLOY / "containers").glob("*.Containerfile"))
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
ROLES = ("coordinator", "hospital")
STATE = "/var/lib/metaward"
PORT = 9443
Mapping = dict[str, Any]  # Any: YAML


def instructions(path: Path) -> list[tuple[str, str]]:
    """Return (instruction, rest) of a container file, continued lines joined."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in joined if line.strip()]


def last(role: str, instruction: str) -> str:
    path = DEPLOY / "containers" / f"{role}.Containerfile"
    return [rest for name, rest in instructions(path) if name == instruction][-1]


def documents(path: Path) -> list[Mapping]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def services() -> dict[str, Mapping]:
    content: Mapping = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    found: dict[str, Mapping] = content["services"]
    return found


def of_kind(kind: str) -> list[Mapping]:
    return [one for path in MANIFESTS for one in documents(path) if one["kind"] == kind]


def pod() -> Mapping:
    [deployment] = of_kind("Deployment")
    spec: Mapping = deployment["spec"]["template"]["spec"]
    return spec


def parse_command(arguments: list[str]) -> None:
    """Let click read a command line of metaward, down to the sub-command, and run nothing."""
    group, command, *rest = arguments
    root = typer.main.get_command(build_app())
    assert isinstance(root, click.Group)
    inner = root.commands[group]
    assert isinstance(inner, click.Group)
    inner.commands[command].make_context(command, rest)


def tool(name: str) -> str:
    """Return the path of a validator; skip where there is none."""
    found = shutil.which(name, path=f"{ROOT / '.tools/bin'}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"{name} is not installed: scripts/tools.sh")
    return found


def accepted(*command: object) -> None:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


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


# --- Kubernetes ----------------------------------------------------------------------------------


def test_the_namespace_refuses_what_is_not_restricted() -> None:
    [namespace] = of_kind("Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    others = [one for path in MANIFESTS for one in documents(path) if one["kind"] != "Namespace"]
    assert {one["metadata"]["namespace"] for one in others} == {namespace["metadata"]["name"]}


def test_every_container_of_the_pod_is_restricted() -> None:
    security = pod()["securityContext"]
    user, group = map(int, last("coordinator", "USER").split(":"))
    assert security["runAsNonRoot"] is True
    assert [security["runAsUser"], security["runAsGroup"], security["fsGroup"]] == [
        user,
        group,
        group,
    ]
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod()["automountServiceAccountToken"] is False
    for container in [*pod()["initContainers"], *pod()["containers"]]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounted == {"state": STATE, "tmp": "/tmp"}


def test_kubernetes_does_not_open_the_keys_to_the_group() -> None:
    """With "Always" it makes every file readable for fsGroup, and such a key is refused."""
    assert pod()["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
    assert last("coordinator", "CMD") == json.dumps(pod()["containers"][0]["args"])


def test_keys_that_kubernetes_opened_on_a_restored_volume_are_closed_again(tmp_path: Path) -> None:
    folder = tmp_path / "coordinator"
    folder.mkdir()
    for name in ("coordinator.yaml", "ca.key"):
        (folder / name).touch()
        (folder / name).chmod(0o660)
    [script] = pod()["initContainers"][0]["args"]
    subprocess.run(["/bin/sh", "-euc", script.replace(STATE, str(tmp_path))], check=True)
    assert stat.S_IMODE((folder / "ca.key").stat().st_mode) == 0o600


def test_there_is_never_a_second_coordinator_on_one_folder() -> None:
    [deployment] = of_kind("Deployment")
    assert deployment["spec"]["replicas"] == 1
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    [claim] = of_kind("PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]
    [state] = [one for one in pod()["volumes"] if one["name"] == "state"]
    assert state["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]


def test_the_pod_runs_commands_that_exist() -> None:
    [init], [container] = pod()["initContainers"], pod()["containers"]
    script = " ".join(init["args"]).replace("$NAME", "n").replace("$ADDRESS", f"h:{PORT}")
    parse_command(shlex.split(script.partition("exec metaward ")[2]))
    parse_command(container["args"])
    probes = {name: probe for name, probe in container.items() if name.endswith("Probe")}
    assert probes.keys() == {"startupProbe", "readinessProbe", "livenessProbe"}
    for probe in probes.values():
        assert probe["exec"]["command"] == ["metaward", "server", "health", container["args"][2]]
        assert probe["timeoutSeconds"] >= 15  # that of the image's HEALTHCHECK
        parse_command(probe["exec"]["command"][1:])


def test_what_the_pod_names_is_there() -> None:
    [settings] = of_kind("ConfigMap")
    for variable in pod()["initContainers"][0]["env"]:
        reference = variable["valueFrom"]["configMapKeyRef"]
        assert reference["name"] == settings["metadata"]["name"]
        assert reference["key"] in settings["data"]
    assert settings["data"]["address"].endswith(f":{PORT}")
    [service] = of_kind("Service")
    [deployment] = of_kind("Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    [port] = pod()["containers"][0]["ports"]
    assert [one["targetPort"] for one in service["spec"]["ports"]] == [port["name"]]
    assert [one["port"] for one in service["spec"]["ports"]] == [port["containerPort"]] == [PORT]


def test_the_coordinators_port_is_all_that_the_network_lets_through() -> None:
    nothing, fleet = of_kind("NetworkPolicy")
    assert nothing["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert fleet["spec"]["policyTypes"] == ["Ingress"]
    assert fleet["spec"]["ingress"] == [{"ports": [{"protocol": "TCP", "port": PORT}]}]
    [deployment] = of_kind("Deployment")
    assert fleet["spec"]["podSelector"] == deployment["spec"]["selector"]


def test_kubernetes_knows_every_field_of_the_manifests() -> None:
    accepted(tool("kubernetes-validate"), "--strict", *MANIFESTS)


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
