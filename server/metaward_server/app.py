"""The coordinator's Flower ServerApp: reads the run's settings, opens the run, plays the rounds.

Run settings: ``study`` (the study as JSON), ``run-dir`` (where the study is written down),
``nodes`` (nodes to wait for before the first round) and ``resume``.
"""

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from pydantic import ValidationError

from metaward.errors import ConfigError
from metaward.study import Study
from metaward_server.guarded_grid import GuardedGrid
from metaward_server.study_run import run_study

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the study that the run's settings describe."""
    config = context.run_config
    try:
        study = Study.model_validate_json(str(config["study"]))
        run_dir, nodes, resume = config["run-dir"], config["nodes"], config["resume"]
    except KeyError as error:
        raise ConfigError(
            f"no {error}",
            expected="study, run-dir, nodes and resume",
            where="the run's settings",
            next_step="Give all four to `flwr run --run-config`.",
        ) from None
    except ValidationError as error:
        raise ConfigError(
            f"{error.error_count()} problems",
            expected="a study as JSON",
            where="the run's setting 'study'",
            next_step="Write it with `Study.model_dump_json()`.",
        ) from None
    run_study(
        GuardedGrid(grid),
        study,
        Path(str(run_dir)),
        n_nodes=int(nodes),
        resume=bool(resume),
        on_round=lambda _: None,
    )
