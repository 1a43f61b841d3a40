"""A hospital takes part in what somebody there agreed to, and in nothing else.

What is approved is a study's digest: learner, model, rounds and everything else that coordinator
and hospitals must agree on. A study with one number changed is another study.
"""

import shlex
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import yaml
from pydantic import Field

from metaward.config import Settings
from metaward.errors import MetawardError
from metaward.patterns import SHA256
from metaward.study import Study
from metaward.whole_file import write_atomically

Consent = Callable[[Study], None]
"""Raises :class:`ApprovalError` for a study that nobody agreed to."""

MAX_PROPOSALS = 100
"""A coordinator that asks for ever new studies must not fill the hospital's disk."""


class ApprovalError(MetawardError):
    """Nobody at this hospital has agreed to this study; nothing was computed."""

    exit_code = 5
    title = "Approval"


class Approval(Settings):
    """The content of `approvals/DIGEST.yaml`."""

    study: Study
    study_digest: str = Field(pattern=SHA256)
    approved_by: str = Field(min_length=1, max_length=200)
    approved_at: str


def approve(folder: Path, study: Study, by: str, now: datetime) -> Path:
    """Write down that ``by`` agrees to a study; return the file."""
    digest = study.digest()
    approval = Approval(
        study=study,
        study_digest=digest,
        approved_by=by,
        approved_at=now.isoformat(timespec="seconds"),
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{digest}.yaml"
    write_atomically(path, yaml.safe_dump(approval.model_dump(mode="json"), sort_keys=False))
    return path


def approved_only(approvals: Path, proposals: Path) -> Consent:
    """Return what refuses a study without an approval, and writes it down as a proposal."""

    def consent(study: Study) -> None:
        name = f"{study.digest()}.yaml"
        if (approvals / name).is_file():
            return
        if proposals.is_dir() and len(list(proposals.iterdir())) < MAX_PROPOSALS:
            text = yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False)
            write_atomically(proposals / name, text)
        raise ApprovalError(
            f"study {study.name} ({study.digest()[:12]}) is not approved here",
            expected="somebody's consent, before anything is computed",
            where=str(approvals),
            next_step=f"metaward site approve SITE {shlex.quote(str(proposals / name))}",
        )

    return consent
