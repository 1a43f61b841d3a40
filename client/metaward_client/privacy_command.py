"""`metaward privacy`: evidence that the hospital's promise is kept, on the hospital's machine."""

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from metaward.errors import PrivacyError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metaward.model_settings import ModelSettings
    from metaward.tasks import Task
    from metaward_client.privacy.policy import ProtectedSettings
    from metaward_client.privacy_audit.findings import Audit, Finding

EXAMPLE = "Example:  metaward privacy audit /data/north/site.yaml --out audit"
IMAGE_SIZE = 32
DRAWN = "Data that the audit drew by itself; no patient's."
OF_A_SITE = "A random part of this hospital's own data. It stayed on this machine."
NO_POLICY = (
    " The site has no protecting policy (NOT PRIVATE as it stands): audited was a default one."
)


def register(app: typer.Typer) -> None:
    """Add the group ``privacy``."""
    privacy = typer.Typer(
        help="What patients are promised, and the evidence.", no_args_is_help=True
    )

    @privacy.callback()
    def group() -> None:
        pass

    privacy.command("audit", epilog=EXAMPLE)(audit)
    app.add_typer(privacy, name="privacy")


def audit(
    site: Annotated[
        Path | None, typer.Argument(help="site.yaml; without it the audit draws its data.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for audit.json and audit.html.", file_okay=False)
    ] = Path("privacy-audit"),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer draws: under a minute, and sees less.")
    ] = False,
) -> None:
    """Attack the mechanisms that protect patients, and write a page for a privacy officer.

    Nothing is released and the site's ledger is not touched. The page holds no identifier, path or
    number of patients. Exit code 4 when a check fails.
    """
    import numpy as np

    from metaward_client.privacy_audit.page import write_audit
    from metaward_client.privacy_audit.run import Effort, run_audit

    with _folder(out):
        task, policy, data = _drawn() if site is None else _of_site(site)
        networks = [] if site is None else approved_networks(site)
        result, pictures = run_audit(
            task,
            policy,
            data=data,
            synthetic=site is None,
            effort=Effort.quick() if quick else Effort(),
            on_check=(lambda _: None) if as_json else _print,
            networks=networks,
            rng=np.random.default_rng(),
        )
        write_audit(result, pictures, out)
    if as_json:
        typer.echo(json.dumps(result.as_json(), indent=2))
    else:
        typer.echo(f"Wrote {out / 'audit.html'} and {out / 'audit.json'}.")
    require_passed(result)


@contextlib.contextmanager
def _folder(path: Path) -> "Iterator[None]":
    """Make the folder before the work; take away one that was made for nothing.

    Raises:
        ConfigError: Nothing can be written to it.
    """
    from metaward.disk import require_writable

    is_new = not path.exists()
    path.mkdir(parents=True, exist_ok=True)
    require_writable(path, what="the page")
    try:
        yield
    except BaseException:
        if is_new:
            with contextlib.suppress(OSError):  # it holds something
                path.rmdir()
        raise


def require_passed(result: "Audit") -> None:
    """Refuse an audit in which a check failed.

    Raises:
        PrivacyError: Names the checks.
    """
    if result.failed:
        raise PrivacyError(
            f"{len(result.failed)} failed: {', '.join(f.check for f in result.failed)}",
            expected="a promise that withstands every check",
            where="privacy audit",
            next_step="Release nothing before the page explains it. A statistical check fails by "
            "chance once in a few hundred audits or less: run it again.",
        )


def _print(finding: "Finding") -> None:
    typer.echo(f"{finding.verdict.value:<10}{finding.check}: {finding.seen}")


def _drawn() -> "tuple[Task, ProtectedSettings, str]":
    import numpy as np

    from metaward_client.privacy_audit.worlds import synthetic_task

    task = synthetic_task(np.random.default_rng(), n_patients=40)
    return task, _default_policy(task), DRAWN


def _of_site(path: Path) -> "tuple[Task, ProtectedSettings, str]":
    from metaward_client.privacy.policy import NoPrivacy
    from metaward_client.site import load_site

    site = load_site(path)
    task = site.load_task(image_size=IMAGE_SIZE)
    policy = site.config.privacy
    if policy is None or isinstance(policy, NoPrivacy):
        return task, _default_policy(task), OF_A_SITE + NO_POLICY
    return task, policy, OF_A_SITE


def approved_networks(site: Path) -> "list[ModelSettings]":
    """Return the different networks of the studies that a site has approved.

    Raises:
        ConfigError: An approval cannot be read.
    """
    from metaward.config import load_settings
    from metaward_client.init_command import NODE_FOLDER
    from metaward_client.node.approval import Approval
    from metaward_client.node.node_folder import NodeFolder

    node = NodeFolder((site if site.is_dir() else site.parent) / NODE_FOLDER)
    approvals = sorted(node.approvals.glob("*.yaml"))
    found = [load_settings(path, Approval).study.model for path in approvals]
    return list(dict.fromkeys(found))


def _default_policy(task: "Task") -> "ProtectedSettings":
    from metaward_client.privacy.policy import DpSgdPolicy

    return DpSgdPolicy(
        target_epsilon=8.0, target_delta=1e-5, population=1000, labels=task.label_names
    )
