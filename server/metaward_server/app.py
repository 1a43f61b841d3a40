"""The coordinator's Flower ServerApp: reads the run's settings, opens the run, plays the rounds.

Run settings: ``study`` (the study as JSON), ``run-dir`` (where the study is written down, with the
model that it begins from in ``start/``) and ``nodes`` (nodes to wait for before the first round). A
study that was begun in that folder goes on from its newest checkpoint; a second process for it
waits until the first has ended.
"""

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from pydantic import ValidationError

from metaward.errors import ConfigError, MetawardError
from metaward.services import only_one
from metaward.start_model import START_FOLDER
from metaward.study import Study
from metaward.wire import largest_update
from metaward.wire_arrays import spec_of
from metaward_server.bounded_replies import bound_replies
from metaward_server.failure_note import clear_failure, write_failure
from metaward_server.guarded_grid import GuardedGrid
from metaward_server.study_run import CHECKPOINTS_FOLDER, initial_theta, run_study

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the study that the run's settings describe."""
    config = context.run_config
    try:
        study = Study.model_validate_json(str(config["study"]))
        folder, nodes = Path(str(config["run-dir"])), int(config["nodes"])
    except KeyError as error:
        raise ConfigError(
            f"no {error}",
            expected="study, run-dir and nodes",
            where="the run's settings",
            next_step="Give all three to `flwr run --run-config`.",
        ) from None
    except ValidationError as error:
        raise ConfigError(
            f"{error.error_count()} problems",
            expected="a study as JSON",
            where="the run's setting 'study'",
            next_step="Write it with `Study.model_dump_json()`.",
        ) from None
    folder.mkdir(parents=True, exist_ok=True)
    with only_one(folder, "this study", wait=True):
        clear_failure(folder)
        spec = spec_of(initial_theta(study))
        bound_replies(largest_update(spec))
        begun = any((folder / CHECKPOINTS_FOLDER).glob("round-*"))
        try:
            run_study(
                GuardedGrid(grid),
                study,
                folder,
                n_nodes=nodes,
                resume=begun,
                on_round=lambda _: None,
                start=folder / START_FOLDER,
            )
        except MetawardError as error:
            write_failure(folder, error)
            raise
