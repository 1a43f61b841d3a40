"""One connection to a PACS over DIMSE: what it offers, and what comes back over it.

Opens connections, and listens on no port: with C-GET the PACS sends images over the connection that
asked for them.
"""

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import UserIdentityNegotiation

from metaward.errors import ConfigError, MetawardError
from metaward_client.dicom.transfer_syntaxes import TRANSFER_SYNTAXES
from metaward_client.pacs.archive import NotFetched, PacsAway
from metaward_client.pacs.credentials import Credentials
from metaward_client.pacs.dimse_access import require_user, tls_of
from metaward_client.pacs.failures import Failure
from metaward_client.pacs.pace import Pace
from metaward_client.pacs.settings import DimseSettings

if TYPE_CHECKING:
    from pynetdicom.association import Association

ResultT = TypeVar("ResultT")

SYNTAXES = [uid for uid, syntax in TRANSFER_SYNTAXES.items() if "MPEG" not in syntax.name]
"""Each is offered by itself, so that the PACS sends an image as it is stored."""

CONTEXTS = 128
"""Pairs of object class and transfer syntax that one connection can offer (PS3.8, 9.3.2.2)."""

CLASSES_AT_ONCE = (CONTEXTS - 2) // len(SYNTAXES)

COMMON_CLASSES = (
    "1.2.840.10008.5.1.4.1.1.2",  # CT
    "1.2.840.10008.5.1.4.1.1.4",  # MR
    "1.2.840.10008.5.1.4.1.1.1",  # CR
    "1.2.840.10008.5.1.4.1.1.1.1",  # digital X-ray
    "1.2.840.10008.5.1.4.1.1.6.1",  # ultrasound
    "1.2.840.10008.5.1.4.1.1.7",  # secondary capture
)
"""Offered where a PACS does not say what class an object is of."""

FIND, GET = "1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.5.1.4.1.2.2.3"
"""Study Root Query/Retrieve Information Model."""

SUCCESS, CANNOT_STORE = 0x0000, 0xA900
NAME_AND_PASSCODE = 2
"""Type of a user identity (PS3.7, table D.3-14)."""
REJECTED_FOR_NOW, BY_ACSE = 2, 2
"""Result and source of a rejected association (PS3.8, 9.3.4). Who does not know a user may answer
with these two; who has too many connections answers with another source."""


class DimseConnection:
    """An association that is made when it is needed, and again after it ended."""

    def __init__(
        self, settings: DimseSettings, credentials: Credentials | None, pace: Pace
    ) -> None:
        self._settings = settings
        self._tls = tls_of(settings)
        self._identity = [] if credentials is None else [_identity(credentials)]
        self._pace = pace
        self._entity = AE(ae_title=settings.calling_ae_title)
        timeout = settings.timeout_seconds
        self._entity.acse_timeout = self._entity.dimse_timeout = timeout
        self._entity.network_timeout = self._entity.connection_timeout = timeout
        self._classes: list[str] = []
        self._association: Association | None = None
        self._wanted = ""
        self._received: bytes | None = None

    def ask(self, request: "Callable[[Association], ResultT]") -> ResultT:
        """Send a request; whatever goes wrong comes out without its text.

        Raises:
            PacsAway: There is no connection, or it ended.
            NotFetched: The answer is not understood, or is a refusal.
            ConfigError: The PACS does not know us, or there is no such host.
        """
        try:
            return request(self._connected())
        except MetawardError:
            raise
        except (PacsAway, NotFetched) as error:
            if isinstance(error, PacsAway):
                self.hang_up()
            raise
        except KeyboardInterrupt:
            self.hang_up()  # who releases a connection waits for the answer to the request first
            raise
        except Exception:  # noqa: BLE001 (pydicom and pynetdicom raise anything about an answer)
            self.hang_up()
        raise NotFetched(Failure.NOT_UNDERSTOOD)

    def wait_for_turn(self, association: "Association") -> None:
        """Return when the next request may go out over a connection.

        Raises:
            PacsAway: It ended meanwhile, as a PACS does to one that is idle.
        """
        self._pace.wait()
        if not association.is_established:
            raise PacsAway()

    def offer(self, kind: str) -> None:
        """Connect anew where the connection does not offer to take objects of a class.

        Args:
            kind: UID of the class; empty: the PACS does not say, and the common ones are offered.
        """
        missing = [kind] if kind else list(COMMON_CLASSES)
        if set(missing) <= set(self._classes):
            return
        kept = [known for known in self._classes if known not in missing]
        self._classes = (kept + missing)[-CLASSES_AT_ONCE:]
        self.close()

    def expect(self, sop_uid: str) -> None:
        """Take this object, when the PACS sends it, and no other."""
        self._wanted, self._received = sop_uid, None

    def received(self) -> bytes | None:
        """Hand out the object that was expected; None: it has not come."""
        received, self._received = self._received, None
        return received

    def close(self) -> None:
        """Release the connection."""
        if self._association is not None and self._association.is_established:
            self._association.release()
        self._association = None

    def hang_up(self) -> None:
        """End the connection at once, with whatever answers are still to come."""
        if self._association is not None and self._association.is_established:
            self._association.abort()
        self._association = None

    def _connected(self) -> "Association":
        if self._association is not None and self._association.is_established:
            return self._association
        self._pace.wait()
        settings = self._settings
        storage = [build_context(kind, syntax) for kind in self._classes for syntax in SYNTAXES]
        try:
            association = self._entity.associate(
                settings.host,
                settings.port,
                contexts=[build_context(FIND), build_context(GET), *storage],
                ae_title=settings.called_ae_title,
                ext_neg=[*(build_role(k, scp_role=True) for k in self._classes), *self._identity],
                tls_args=None if self._tls is None else (self._tls.context, self._tls.host),
                evt_handlers=[(evt.EVT_C_STORE, self._take), (evt.EVT_CONN_OPEN, _prepare)],
            )
        except (socket.gaierror, UnicodeError) as error:  # the latter: not even a name
            raise _no_host(error) from None
        if not association.is_established:
            if self._tls is not None and not association.is_rejected:
                self._tls.refuse_untrusted(settings.port, settings.timeout_seconds)
            raise _not_connected(association, with_user=bool(self._identity))
        self._association = association
        return association

    def _take(self, event: evt.Event) -> int:
        """Keep what the PACS sends, in the thread of the connection."""
        try:
            request = event.request
            if isinstance(request, C_STORE) and str(request.AffectedSOPInstanceUID) == self._wanted:
                self._received = event.encoded_dataset()
                return SUCCESS
        except Exception:  # noqa: BLE001 (the PACS hears of it, and so does whoever asked for it)
            return CANNOT_STORE
        return CANNOT_STORE


def _prepare(event: evt.Event) -> None:
    """Bound every wait for a byte, and send small packets at once.

    Within a packet pynetdicom waits for ever. Sending without waiting until the last packet is
    acknowledged takes, measured with Orthanc, 0.10 seconds per image instead of 0.14.
    """
    connection = event.assoc.dul.socket
    if connection is not None and connection.socket is not None:
        connection.socket.settimeout(event.assoc.network_timeout)
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _identity(credentials: Credentials) -> UserIdentityNegotiation:
    """Return the user and password as they go into an association's request."""
    require_user(credentials)
    identity = UserIdentityNegotiation()
    identity.user_identity_type = NAME_AND_PASSCODE
    identity.primary_field = credentials.user.encode()
    identity.secondary_field = credentials.password.encode()
    return identity


def _no_host(error: socket.gaierror | UnicodeError) -> Exception:
    """Return why a name leads to no address: nobody has it, or nobody can be asked now."""
    if isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN:
        return PacsAway()
    return ConfigError(
        "no such host",
        expected="the name or address of the PACS, as this machine knows it",
        where="data.pacs.host",
        next_step="Correct it, or have the name entered where this machine looks names up.",
    )


def require_service(association: "Association", uid: str) -> None:
    """Check that the PACS offers us C-FIND, or C-GET.

    Raises:
        ConfigError: It does not.
    """
    if uid not in {context.abstract_syntax for context in association.accepted_contexts}:
        raise _no_service("C-FIND" if uid == FIND else "C-GET")


def _no_service(name: str) -> ConfigError:
    return ConfigError(
        f"the PACS offers us no {name} there",
        expected="C-FIND and C-GET (Study Root)",
        where="data.pacs.host, port, called_ae_title",
        next_step="Have both allowed for our AE title in the PACS; where it has no C-GET, fetch "
        "over DICOMweb.",
    )


def _not_connected(association: "Association", *, with_user: bool) -> Exception:
    """Return why there is no connection: the PACS refused us, or cannot be reached."""
    if association.rejected_contexts and not association.accepted_contexts:
        return _no_service("C-FIND and no C-GET")
    if not association.is_rejected:
        return PacsAway()
    answer = association.acceptor.primitive
    rejected = (None, None) if answer is None else (answer.result, answer.result_source)
    is_user_unknown = with_user and rejected[1] == BY_ACSE
    if rejected[0] == REJECTED_FOR_NOW and not is_user_unknown:
        return PacsAway(Failure.BUSY)
    return ConfigError(
        "the PACS refuses the connection",
        expected="AE titles that the PACS knows, its own and ours from this machine; and, where it "
        "wants one, a user and password",
        where="data.pacs.called_ae_title, calling_ae_title, credentials",
        next_step="Correct them, or have this machine and its AE title entered in the PACS.",
    )
