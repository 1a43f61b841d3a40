"""Manifests: restricted, one coordinator for a folder, in step with the image and the CLI."""

import json
import shlex
import stat
import subprocess
from pathlib import Path

from packaged_files import (
    MANIFESTS,
    PORT,
    STATE,
    accepted,
    documents,
    last,
    of_kind,
    parse_command,
    pod,
    tool,
)


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
