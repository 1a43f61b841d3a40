"""`metaward server`: what the coordinator's engineer runs."""

import json
import math
import shlex
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from metaward.health import Wait, ask_until_healthy, require_healthy, show_answers

if TYPE_CHECKING:
    from metaward_server.coordinator.studies import StudyFolder

EXAMPLES = {
    "init": "Example:  metaward server init /srv/metaward --address federation.example.org:9443",
    "start": "Example:  metaward server start /srv/metaward",
    "enrol": "Example:  metaward server enrol /srv/metaward enrolment.yaml",
    "remove": "Example:  metaward server remove /srv/metaward north",
    "renew": "Example:  metaward server renew /srv/metaward",
    "run": "Example:  metaward server run /srv/metaward study.yaml",
    "resume": "Example:  metaward server resume /srv/metaward chest-2026",
    "status": "Example:  metaward server status /srv/metaward",
    "health": "Example:  metaward server health /srv/metaward",
}
Folder = Annotated[Path, typer.Argument(help="The coordinator's folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
POLL_S = 1.0
PATIENCE_S = 30.0
"""After so long without a round, who watches a study is told what it waits for."""


def register(app: typer.Typer) -> None:
    """Add the group ``server``."""
    server = typer.Typer(
        help="The coordinator: certificates, hospitals, studies.", no_args_is_help=True
    )
    for command in (init, start, enrol, remove, renew, run, resume, status, health):
        server.command(command.__name__, epilog=EXAMPLES[command.__name__])(command)
    app.add_typer(server, name="server")


def init(
    folder: Folder,
    address: Annotated[str, typer.Option(help="host:port under which hospitals reach it.")],
    name: Annotated[str, typer.Option(help="Name of the federation.")] = "federation",
    listen: Annotated[
        str, typer.Option(help="host:port to bind; by default all addresses, the same port.")
    ] = "",
    superlink_port: Annotated[int, typer.Option(help="Port on loopback.")] = 9092,
    health_port: Annotated[int, typer.Option(help="Port on loopback, for health.")] = 9096,
) -> None:
    """Make a coordinator: an authority of its own, a certificate, a folder for what it knows."""
    from metaward.config import validate_settings
    from metaward.enrolment import certificate_fingerprint
    from metaward_server.coordinator.home import CoordinatorSettings, create

    content = {
        "name": name,
        "address": address,
        "listen": listen,
        "superlink_port": superlink_port,
        "health_port": health_port,
    }
    settings = validate_settings(content, CoordinatorSettings, where="the command line")
    coordinator = create(folder, settings, datetime.now(UTC))
    typer.echo(f"Coordinator: {coordinator.folder}")
    fingerprint = certificate_fingerprint(coordinator.ca_certificate.read_bytes())
    typer.echo(f"Fingerprint, to be read to hospitals by telephone:\n{fingerprint}")


def start(folder: Folder) -> None:
    """Run the coordinator until Ctrl-C or SIGTERM: SuperLink, proxy, studies.

    Hospitals reach the proxy; the SuperLink is on loopback. What ends is started again.
    """
    from rich.console import Console

    from metaward.services import Services, only_one
    from metaward.watch import Watch
    from metaward_server.coordinator.home import make_folders, open_coordinator
    from metaward_server.coordinator.processes import (
        require_startable,
        services_of,
        write_connection,
    )
    from metaward_server.coordinator.troubles import troubles

    coordinator = open_coordinator(folder)
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    with (
        only_one(coordinator.folder, "this coordinator"),
        Watch(lambda: troubles(coordinator, datetime.now(UTC)), console.print) as watch,
    ):
        require_startable(coordinator)
        make_folders(coordinator.folder)
        write_connection(coordinator)
        services = Services(services_of(coordinator), console.print, watch.look_now)
        services.stop_on_signals()
        console.print(f"{coordinator.settings.name} at {coordinator.settings.address}")
        services.run()


def enrol(
    folder: Folder,
    request: Annotated[Path, typer.Argument(help="The hospital's enrolment.yaml.")],
    out: Annotated[Path, typer.Option(help="Folder for the kit; made if need be.")] = Path(),
) -> None:
    """Let a hospital take part: take its request, give a kit."""
    from metaward.enrolment import certificate_fingerprint, read_request, write_yaml
    from metaward_server.coordinator import hospitals
    from metaward_server.coordinator.home import open_coordinator

    coordinator = open_coordinator(folder)
    asked = read_request(request)
    kit = hospitals.kit_for(coordinator, asked)
    path = out / f"kit-{kit.hospital}.yaml"
    out.mkdir(parents=True, exist_ok=True)
    write_yaml(path, kit)  # first: a hospital that is enrolled has its kit
    hospitals.enrol(coordinator, asked)
    typer.echo(f"Enrolled: {kit.hospital}")
    typer.echo(f"Kit:      {path} (send it to the hospital)")
    fingerprint = certificate_fingerprint(kit.ca_certificate.encode())
    typer.echo(f"Fingerprint, to be read to the hospital by telephone:\n{fingerprint}")


def remove(folder: Folder, hospital: str) -> None:
    """Take a hospital out; its node is refused from now on."""
    from metaward_server.coordinator import hospitals
    from metaward_server.coordinator.home import open_coordinator

    hospitals.remove(open_coordinator(folder), hospital)
    typer.echo(f"Removed: {hospital}")


def renew(folder: Folder) -> None:
    """Make a new certificate of the same authority; hospitals need no new kit. Then restart."""
    from metaward_server.coordinator.home import read_coordinator, renew_certificate

    coordinator = read_coordinator(folder)
    renew_certificate(coordinator, datetime.now(UTC))
    typer.echo(f"Renewed: {coordinator.certificate}. Restart `metaward server start`.")


def run(
    folder: Folder,
    study: Annotated[Path, typer.Argument(help="The study (YAML).")],
    nodes: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Hospitals to wait for: by default all that are enrolled. Never fewer than a "
            "round needs.",
        ),
    ] = None,
    start_from: Annotated[
        Path | None,
        typer.Option("--start", help="Model, or run, that training begins from."),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow/--no-follow", help="Watch it; Ctrl-C ends the watching only.")
    ] = True,
) -> None:
    """Run a study over the enrolled hospitals; each takes part once it has approved it."""
    from metaward.run_directory import model_folder
    from metaward.study import read_study
    from metaward_server.coordinator import hospitals, studies
    from metaward_server.coordinator.home import open_coordinator

    coordinator = open_coordinator(folder)
    wanted = read_study(study)
    n_enrolled = len(hospitals.enrolled(coordinator))
    start = None if start_from is None else model_folder(start_from)
    needed = wanted.least_updates()
    begun = studies.want(coordinator, wanted, max(nodes or n_enrolled, needed), start)
    typer.echo(f"Study {wanted.name}, digest {begun.study.digest()}: {begun.path}")
    if n_enrolled < needed:
        typer.echo(
            f"It cannot begin yet. Hospitals that a round needs: {needed}; that are enrolled: "
            f"{n_enrolled}. metaward server enrol takes more."
        )
    if follow:
        _follow(begun)


def resume(folder: Folder, name: str) -> None:
    """Go on with a study that failed, or watch one that runs."""
    from metaward_server.coordinator import studies
    from metaward_server.coordinator.home import open_coordinator

    _follow(studies.want_again(open_coordinator(folder), name))


def status(folder: Folder, as_json: AsJson = False) -> None:
    """Show hospitals, studies, and the certificate's last day."""
    from metaward_server.coordinator.home import open_coordinator
    from metaward_server.coordinator.standing import print_standing, standing

    found = standing(open_coordinator(folder), datetime.now(UTC))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        print_standing(found)


def health(folder: Folder, wait: Wait = 0.0, as_json: AsJson = False) -> None:
    """Ask whether the SuperLink serves and the proxy lets hospitals reach it; exit code 5 if not.

    For systemd, container engines and monitoring: a few seconds at most, and nothing is changed.
    """
    from metaward_server.coordinator.front import answers_of
    from metaward_server.coordinator.home import read_coordinator

    coordinator = read_coordinator(folder)
    answers = ask_until_healthy(lambda: answers_of(coordinator), wait_s=wait)
    show_answers(answers, as_json=as_json)
    require_healthy(
        answers,
        where=str(coordinator.folder),
        next_step="metaward server start, or a look into log/.",
    )


def _waits_for(nodes: int, needed: int) -> str:
    """Return what a study waits for before its first round.

    Args:
        nodes: Hospitals that it waits for, at most one deadline long.
        needed: Hospitals without which no round counts.
    """
    all_of_them = max(nodes, needed)
    there = "1 hospital is" if all_of_them == 1 else f"{all_of_them} hospitals are"
    fewer = f", or with fewer, at least {needed}, after round.deadline_s"
    return (
        f"No round has closed yet. The first begins when {there} online"
        f"{fewer if all_of_them > needed else ''}; metaward server status says who is."
    )


def _follow(folder: "StudyFolder") -> None:
    """Print each round as it closes, and on Ctrl-C that the study goes on.

    Raises:
        FederationError: The study fails.
    """
    try:
        _print_rounds(folder)
    except KeyboardInterrupt:
        typer.echo(f"\nThe study goes on. To watch it again: {_resume(folder)}")
        raise


def _resume(folder: "StudyFolder") -> str:
    home = shlex.quote(str(folder.path.parent.parent))
    return f"metaward server resume {home} {folder.path.name}"


def _print_rounds(folder: "StudyFolder") -> None:
    from metaward.errors import FederationError
    from metaward.run_directory import RunDirectory
    from metaward_server.coordinator.advice import outer_step_advice, way_on

    shown, silent_from, advised = 0, time.monotonic(), False
    while True:
        state = folder.state
        events = RunDirectory(folder.path).read_rounds()
        if not events and time.monotonic() - silent_from > PATIENCE_S:
            typer.echo(_waits_for(state.nodes, folder.study.least_updates()))
            silent_from = math.inf  # once is enough
        for event in events[shown:]:
            refused = ", ".join(f"{reason}: {n}" for reason, n in event.refused.items())
            void = "  VOID, the model stays as it was" if event.void else ""
            typer.echo(
                f"round {event.round_index + 1}/{event.n_rounds}: {event.admitted} of "
                f"{event.asked} in {event.seconds:.0f} s{'  ' if refused else ''}{refused}{void}"
            )
        if events[shown:] and not advised and state.state == "running":
            advice = outer_step_advice(folder.study, events[-1])
            typer.echo(advice, nl=bool(advice))
            advised = bool(advice)
        shown = max(shown, len(events))
        if state.state == "finished":
            typer.echo(f"Finished. Model: {folder.path / 'model'}")
            return
        if state.state == "failed":
            raise FederationError(
                state.reason,
                where=f"study {folder.path.name}",
                next_step=way_on(folder.study, events, _resume(folder)),
            )
        sys.stdout.flush()
        time.sleep(POLL_S)
