"""A SuperLink that answers as Flower's command line does, and what it is told of."""

from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from metaward.enrolment import new_request
from metaward.errors import FederationError
from metaward.model_settings import ModelSettings
from metaward.study import Study
from metaward_server.checkpoints import CheckpointStore, Progress
from metaward_server.coordinator import studies
from metaward_server.coordinator.home import Coordinator
from metaward_server.study_run import initial_theta

STUDY = Study(name="chest", rounds=3, model=ModelSettings(filters=8, image_size=16, groups=2))


class FakeSuperLink:
    """Answers as Flower's command line does: nodes by number, runs with a status.

    As Flower's, it lists nodes that were unregistered, and takes no key twice.
    """

    def __init__(self) -> None:
        self.nodes: dict[str, str] = {}
        self.gone: set[str] = set()
        self.keys: set[str] = set()
        self.runs: dict[str, str] = {}
        self.settings: list[str] = []
        self.is_up = True
        self.asked: list[tuple[str, ...]] = []

    def __call__(self, _: Coordinator, *arguments: str, **options: str) -> dict[str, Any]:
        self.asked.append(arguments)
        if not self.is_up:
            raise FederationError("the SuperLink did not do this")
        match arguments:
            case ("supernode", "list"):
                status = dict.fromkeys(self.nodes, "online") | dict.fromkeys(
                    self.gone, "unregistered"
                )
                return {"nodes": [{"node-id": n, "status": s} for n, s in status.items()]}
            case ("supernode", "register", path):
                key = Path(path).read_text()
                if key in self.keys:
                    raise FederationError("Public key already in use")
                self.keys.add(key)
                number = str(len(self.nodes) + len(self.gone) + 100)
                self.nodes[number] = options["name"]
                return {"node-id": number}
            case ("supernode", "unregister", number):
                if self.nodes.pop(number, None) is None:
                    raise FederationError("Node not found")
                self.gone.add(number)
                return {}
            case ("list",):
                return {"runs": [{"run-id": n, "status": s} for n, s in self.runs.items()]}
            case ("run", _):
                number = str(len(self.runs) + 1)
                self.runs[number] = "running"
                self.settings.append(Path(options["run-config"]).read_text())
                return {"run-id": number}
        raise AssertionError(arguments)

    def forget(self) -> None:
        """Lose the state, as when its database is deleted."""
        self.nodes, self.gone, self.keys = {}, set(), set()


def request(name: str) -> Any:
    return new_request(name, ec.generate_private_key(ec.SECP384R1()))


def commit(folder: studies.StudyFolder, next_round: int) -> None:
    store = CheckpointStore(folder.path / "checkpoints", STUDY.digest())
    store.save(Progress(next_round, initial_theta(STUDY), {}))
