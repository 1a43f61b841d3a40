"""`metaward simulate`: many hospitals on one machine, from data to report."""

import re
import shlex
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from metaward_sim.scenario import Scenario

EXAMPLES = (
    "Examples:  metaward simulate   |   metaward simulate --hospitals 12 --rounds 30   |   "
    "metaward simulate --epsilon 8 --patients 200   |   "
    "metaward simulate --data hospitals/ --held-out rosendahl   |   "
    "metaward simulate --resume runs/demo-20260101-120000"
)
RUNS_FOLDER = "runs"


def register(app: typer.Typer) -> None:
    """Add the command ``simulate``."""
    app.command("simulate", epilog=EXAMPLES)(simulate)


def simulate(
    scenario_file: Annotated[
        Path | None,
        typer.Argument(metavar="[SCENARIO.yaml]", help="A scenario; every key has a default."),
    ] = None,
    hospitals: Annotated[
        int | None, typer.Option(min=1, help="Synthetic hospitals that take part.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder with one site folder per hospital, instead of synthetic ones."),
    ] = None,
    held_out: Annotated[
        str | None,
        typer.Option(help="Hospitals that take no part: how many, or their names: a,b."),
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds of training.")] = None,
    learner: Annotated[
        str | None, typer.Option(help="A learner, by its name in a scenario.")
    ] = None,
    start: Annotated[
        Path | None, typer.Option(help="Model, or run, that training begins from.")
    ] = None,
    epsilon: Annotated[
        float | None,
        typer.Option(help="Protect patients: what each may lose in all rounds, e.g. 8."),
    ] = None,
    mechanism: Annotated[
        str | None, typer.Option(help="dp-sgd or block; how patients are protected.")
    ] = None,
    patients: Annotated[
        int | None, typer.Option(min=4, help="Mean patients per finding, when synthetic.")
    ] = None,
    grid: Annotated[str | None, typer.Option(help="in-process or ray.")] = None,
    device: Annotated[
        str | None, typer.Option(help="Where hospitals train: cpu, cuda or cuda:1.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of data and training.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Worker processes; one per core by default.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; runs/NAME-TIME by default.")] = (
        None
    ),
    resume: Annotated[
        Path | None, typer.Option(help="Go on with an interrupted run; takes no other option.")
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write TensorBoard event files.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report as JSON and nothing else.")
    ] = False,
) -> None:
    """Run N hospitals on this machine and measure the shared model at hospitals left out."""
    from rich.console import Console

    from metaward.report.terminal import print_report
    from metaward_sim.live_view import LiveView
    from metaward_sim.simulate import begin, reopen
    from metaward_sim.simulate import simulate as run_simulation

    chosen = {
        "hospitals.synthetic": hospitals,
        "hospitals.root": None if data is None else str(data.absolute()),
        "hospitals.held_out": None if held_out is None else _held_out(held_out),
        "rounds": rounds,
        "learner": None if learner is None else {"name": learner},
        "start": None if start is None else str(start.absolute()),
        "privacy.mechanism": mechanism,
        "privacy.target_epsilon": epsilon,
        "hospitals.patients": patients,
        "grid": grid,
        "device": device,
        "seed": seed,
        "workers": workers,
    }
    given = {key: value for key, value in chosen.items() if value is not None}
    if resume is not None:
        _refuse_with_resume(scenario_file, given, out, tensorboard)
        simulation = reopen(resume)
    else:
        scenario = read_scenario(scenario_file, given)
        folder = out or Path(RUNS_FOLDER) / f"{scenario.name}-{_time_stamp()}"
        simulation = begin(scenario, folder, command=_command_line(), tensorboard=tensorboard)
    console = Console(stderr=as_json)
    view = LiveView(console, simulation.scenario.name, quiet=as_json)
    try:
        report = run_simulation(simulation, view)
    except KeyboardInterrupt:
        again = shlex.join(["metaward", "simulate", "--resume", str(simulation.run.path)])
        typer.echo(f"Stopped. Go on with:  {again}", err=True)
        raise
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
        return
    print_report(report, console)
    console.print(f"\nReport: {simulation.run.report_html}", soft_wrap=True)


def read_scenario(path: Path | None, given: dict[str, Any]) -> "Scenario":
    """Return the scenario of a file, or the default one, changed by command-line options.

    Args:
        path: YAML file, or None for the defaults.
        given: Dotted key -> value. A learner that differs from the file's replaces it whole.

    Where training begins from a model and the file leaves `model` out, it is that model's network.

    Raises:
        ConfigError: The file or an option is wrong; all problems are listed.
    """
    from metaward.config import load_settings, read_mapping, validate_settings
    from metaward.errors import ConfigError
    from metaward.model_artefact import load_card
    from metaward.run_directory import model_folder
    from metaward_sim.scenario import Scenario

    content: dict[str, Any] = {}
    if path is not None:
        read = load_settings(path, Scenario)  # names the lines of its own problems
        content = read_mapping(path)
        if read.hospitals.root is not None:
            content["hospitals"]["root"] = str(path.absolute().parent / read.hospitals.root)
        if read.start is not None:
            content["start"] = str(path.absolute().parent / read.start)
    for key, value in given.items():
        *parents, last = key.split(".")
        place = content
        for parent in parents:
            if place.get(parent) is None:  # left out, or written without a value
                place[parent] = {}
            place = place[parent]
        if key == "learner" and place.get(last, {}).get("name") == value["name"]:
            continue
        place[last] = value
    if content.get("start") and "model" not in content:
        card = load_card(model_folder(Path(content["start"])))
        content["model"] = card.model.model_dump(mode="json")
    options = ", ".join(f"--{_option(key)}" for key in given)
    where = [text for text in ("" if path is None else str(path), options) if text]
    if "privacy.mechanism" in given and "target_epsilon" not in content["privacy"]:
        raise ConfigError(
            "--mechanism for a run that is not private",
            expected="--epsilon with it: what a patient may lose in all rounds",
            where=" with ".join(where),
            next_step="Add --epsilon 8, or leave --mechanism out.",
        )
    scenario = validate_settings(content, Scenario, where=" with ".join(where))
    if scenario.hospitals.root is not None:
        _refuse_with_folder(given, where=" with ".join(where))
    return scenario


def _refuse_with_folder(given: dict[str, Any], *, where: str) -> None:
    """Refuse options about drawing hospitals where those of a folder are taken as they are."""
    from metaward.errors import ConfigError

    for key in ("hospitals.synthetic", "hospitals.patients"):
        if key in given:
            option = f"--{_option(key)}"
            raise ConfigError(
                f"{option} together with a folder of hospitals",
                expected=f"{option} for synthetic ones, or a folder: all in it is used",
                where=where,
                next_step=f"Leave {option} out, or leave the folder out.",
            )


def _option(key: str) -> str:
    """Return the option that sets a dotted key of the scenario."""
    names = {
        "hospitals.synthetic": "hospitals",
        "hospitals.root": "data",
        "privacy.target_epsilon": "epsilon",
    }
    return names.get(key, key.split(".")[-1].replace("_", "-"))


def _held_out(text: str) -> int | list[str]:
    is_number = re.fullmatch("[0-9]{1,18}", text) is not None
    return int(text) if is_number else [name.strip() for name in text.split(",")]


def _refuse_with_resume(
    scenario_file: Path | None, given: dict[str, Any], out: Path | None, tensorboard: bool
) -> None:
    from metaward.errors import ConfigError

    if scenario_file is None and not given and out is None and not tensorboard:
        return
    raise ConfigError(
        "--resume together with other settings",
        expected="--resume RUN alone: the run's own config.yaml says the rest",
        where="the command line",
        next_step="Leave the other settings out, or start a new run without --resume.",
    )


def _time_stamp() -> str:
    return datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")


def _command_line() -> str:
    return shlex.join(["metaward", *sys.argv[1:]])
