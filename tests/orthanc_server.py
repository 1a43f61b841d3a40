"""A real PACS for tests: Debian's Orthanc, on free ports, in a folder of the test."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

USER, PASSWORD = "metaward", "correct horse"
AE_TITLE, OUR_AE_TITLE = "ORTHANC", "METAWARD"
PLUGINS = (
    Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so"),
    Path("/usr/lib/orthanc/libOrthancDicomWeb.so"),
)
SECONDS_TO_START = 30


def orthanc_binary() -> Path:
    """Return the binary, or skip the test."""
    found = shutil.which("Orthanc", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    plugin = any(path.exists() for path in PLUGINS)
    if found is None or not plugin:
        pytest.skip(
            "needs Orthanc: apt-get install --no-install-recommends orthanc orthanc-dicomweb"
        )
    return Path(found)


@dataclass(frozen=True)
class Orthanc:
    """A running Orthanc.

    Attributes:
        http: Root URL of its own interface.
        dicom_port: For DIMSE.
    """

    http: str
    dicom_port: int
    session: requests.Session

    @property
    def dicomweb(self) -> str:
        return f"{self.http}/dicom-web"

    def get(self, path: str) -> Any:
        answer = self.session.get(f"{self.http}{path}", timeout=20)
        answer.raise_for_status()
        return answer.json()

    def store(self, *paths: Path) -> None:
        """Put files in, as a scanner would."""
        for path in paths:
            answer = self.session.post(f"{self.http}/instances", path.read_bytes(), timeout=20)
            answer.raise_for_status()
            assert answer.json()["Status"] == "Success"

    def state(self) -> tuple[object, object]:
        """Return what changes with anything that is stored, changed or deleted."""
        statistics = self.get("/statistics")
        return statistics, self.get("/changes?last")["Last"]


@contextlib.contextmanager
def running_orthanc(folder: Path) -> Iterator[Orthanc]:
    """Start Orthanc, and stop it at the end.

    It listens to this machine alone where it can be told to (HTTP), and knows one user and one
    AE title, which may search and fetch and nothing else.
    """
    binary = orthanc_binary()
    http_port, dicom_port = _free_ports(2)
    settings = {
        "Name": "test",
        "StorageDirectory": str(folder / "store"),
        "IndexDirectory": str(folder / "store"),
        "Plugins": [str(path) for path in PLUGINS if path.exists()][:1],
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {USER: PASSWORD},
        "HttpPort": http_port,
        "DicomPort": dicom_port,
        "DicomAet": AE_TITLE,
        "DicomCheckCalledAet": True,
        "DicomCheckModalityHost": True,
        "DicomAlwaysAllowEcho": False,
        "DicomAlwaysAllowFind": False,
        "DicomAlwaysAllowGet": False,
        "DicomAlwaysAllowStore": False,
        "DicomModalities": {
            "site": {
                "AET": OUR_AE_TITLE,
                "Host": "127.0.0.1",
                "Port": 104,
                "AllowEcho": True,
                "AllowFind": True,
                "AllowGet": True,
                "AllowMove": False,
                "AllowStore": False,
            }
        },
        "HttpCompressionEnabled": False,
        "SyncStorageArea": False,
        "KeepAlive": True,
        "TcpNoDelay": True,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "store").mkdir()
    configuration = folder / "orthanc.json"
    configuration.write_text(json.dumps(settings), encoding="utf-8")
    with (folder / "log").open("wb") as log, requests.Session() as session:
        session.auth, session.trust_env = (USER, PASSWORD), False
        process = subprocess.Popen([binary, configuration], stdout=log, stderr=log)
        try:
            orthanc = Orthanc(f"http://127.0.0.1:{http_port}", dicom_port, session)
            _wait_until_it_answers(orthanc, process, folder / "log")
            yield orthanc
        finally:
            process.kill()  # asked politely, it takes seconds; its folder is the test's anyway
            process.wait(20)


def _wait_until_it_answers(orthanc: Orthanc, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(requests.ConnectionError):
            orthanc.get("/system")
            return
        time.sleep(0.05)
    raise RuntimeError(f"Orthanc did not start:\n{log.read_text('utf-8', 'replace')[-2000:]}")


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(number)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in listeners]
