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

from metaward.config import Settings, load_settings
from metaward.errors import ConfigError, MetawardError
from metaward.patterns import SHA256
from metaward.study import Study
from metaward.whole_file import write_atomically

Consent = Callable[[Study], None]
"""Raises :class:`ApprovalError` for a study that nobody agreed to."""

MOST_NAME = 200
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
    approved_by: str = Field(min_length=1, max_length=MOST_NAME)
    approved_at: str


def plain_name(by: str) -> str:
    """Return who agrees as it is recorded.

    Raises:
        ConfigError: It is empty, too long, or holds control characters.
    """
    name = by.strip()
    if name.isprintable() and 0 < len(name) <= MOST_NAME:
        return name
    raise ConfigError(
        "no name" if not name else "a name that is too long or not plain text",
        expected=f"1 to {MOST_NAME} characters on one line",
        where="--by",
        next_step="Say who agrees.",
    )


def approval_file(folder: Path, study: Study) -> Path:
    """Return where the approval of a study is, or would be."""
    return folder / f"{study.digest()}.yaml"


def approval_of(folder: Path, study: Study) -> Approval | None:
    """Return the approval of a study, where somebody agreed to it.

    Raises:
        ConfigError: The file is damaged.
    """
    path = approval_file(folder, study)
    return load_settings(path, Approval) if path.exists() else None


def approve(folder: Path, study: Study, by: str, now: datetime) -> Approval:
    """Write down that ``by`` agrees to a study; return the approval that stands: the first.

    Raises:
        ConfigError: See :func:`plain_name` and :func:`approval_of`.
    """
    approval = Approval(
        study=study,
        study_digest=study.digest(),
        approved_by=plain_name(by),
        approved_at=now.isoformat(timespec="seconds"),
    )
    if (first := approval_of(folder, study)) is not None:
        return first
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(approval.model_dump(mode="json"), sort_keys=False)
    write_atomically(approval_file(folder, study), text)
    return approval


def approved_only(approvals: Path, proposals: Path) -> Consent:
    """Return what refuses a study without an approval, and writes it down as a proposal."""

    def consent(study: Study) -> None:
        if approval_file(approvals, study).is_file():
            return
        proposal = approval_file(proposals, study)
        if proposals.is_dir() and len(list(proposals.iterdir())) < MAX_PROPOSALS:
            text = yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False)
            write_atomically(proposal, text)
        raise ApprovalError(
            f"study {study.name} ({study.digest()[:12]}) is not approved here",
            expected="somebody's consent, before anything is computed",
            where=str(approvals),
            next_step=f"metaward site approve SITE {shlex.quote(str(proposal))}",
        )

    return consent
