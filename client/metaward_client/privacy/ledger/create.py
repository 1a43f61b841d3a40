"""A new ledger: its folders, the site's key, the first entry, the first head.

Written in this order: key, head, file. A crash before the last leaves a head that counts one entry
and no file; nothing can have been spent under it, and making the ledger again goes on from there.
A head that counts more belongs to a ledger that stood here and is gone: that is refused.
"""

import secrets
from pathlib import Path

from metaward.errors import PrivacyError
from metaward_client.privacy.ledger.chain import BEFORE_ALL, Head, Kind, seal_entry
from metaward_client.privacy.ledger.clock import Clock, as_text
from metaward_client.privacy.ledger.disk import Disk
from metaward_client.privacy.ledger.journal import LEDGER_FILE, REPLIES_FOLDER, places
from metaward_client.privacy.ledger.own_folder import make_folder, open_folder
from metaward_client.privacy.ledger.refusals import BRING_BACK
from metaward_client.privacy.ledger.state import open_payload
from metaward_client.privacy.ledger.witness import HEAD, making_witness
from metaward_client.privacy.terms import Budget


def create_ledger(
    folder: Path, witness: Path | None, budget: Budget, *, clock: Clock, disk: Disk
) -> str:
    """Make the ledger of one patient population; return its random name (32 hex digits).

    Args:
        folder: A new or an empty folder.
        witness: A folder elsewhere; by default see ``default_witness``.
        budget: What may be spent on these patients in all.
        clock: Gives the machine's time, with a time zone.
        disk: The effects on the disk.

    Raises:
        PrivacyError: A ledger stands there, or stood there and is gone.
    """
    ledger_path, witness_path = places(folder, witness)
    for path in (ledger_path, ledger_path / REPLIES_FOLDER, witness_path):
        make_folder(path, disk)
    with (
        making_witness(witness_path, disk) as new_witness,
        open_folder(ledger_path, disk) as ledger_folder,
        open_folder(ledger_path / REPLIES_FOLDER, disk),
    ):
        if ledger_folder.has(LEDGER_FILE):
            raise PrivacyError(
                "a ledger stands here already",
                where=str(ledger_path),
                next_step="Use it; a second ledger for the same patients would forget what the "
                "first has counted.",
            )
        if new_witness.folder.has(HEAD) and new_witness.head().count > 1:
            raise PrivacyError(
                "the witness of a ledger that is gone",
                expected="a witness that no ledger has used",
                where=str(witness_path),
                next_step=BRING_BACK,
            )
        name = secrets.token_hex(16)
        line, entry = seal_entry(
            Head(0, BEFORE_ALL),
            as_text(clock()),
            Kind.OPEN,
            open_payload(name, budget),
            new_witness.key,
        )
        new_witness.advance(Head(1, entry.digest))
        ledger_folder.replace(LEDGER_FILE, line)
    return name
