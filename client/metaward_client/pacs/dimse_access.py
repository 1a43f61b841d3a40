"""Who we are to a PACS over DIMSE: TLS (PS3.15, B.1), a user's identity (PS3.7, D.3.3.7)."""

import contextlib
import socket
import ssl
from dataclasses import dataclass

from metaward.errors import ConfigError
from metaward.private_file import require_private
from metaward_client.pacs.credentials import Credentials
from metaward_client.pacs.settings import DimseSettings

ALERT_S = 1.0
"""Seconds in which a PACS that does not accept our certificate says so."""


@dataclass(frozen=True)
class Tls:
    """What a connection is encrypted with.

    Attributes:
        context: Verifies the PACS's certificate and name; holds ours where the PACS wants one.
        host: Name that its certificate must have.
    """

    context: ssl.SSLContext
    host: str

    def refuse_untrusted(self, port: int, timeout: float) -> None:
        """Say why a connection failed, if it was for its encryption.

        Raises:
            ConfigError: The PACS speaks no TLS there, or its certificate is not trusted.
        """
        with contextlib.suppress(OSError):
            plain = socket.create_connection((self.host, port), timeout)
            try:
                with self.context.wrap_socket(plain, server_hostname=self.host) as encrypted:
                    encrypted.settimeout(min(timeout, ALERT_S))
                    encrypted.recv(1)  # who wants a certificate of ours says so after the greeting
            except ssl.SSLError:
                raise _no_trust() from None
            finally:
                plain.close()


def tls_of(settings: DimseSettings) -> Tls | None:
    """Return what encrypts; None where the settings do not ask for it.

    Raises:
        ConfigError: A certificate or key is missing or damaged, or others may read the key.
    """
    if not settings.tls:
        return None
    context = ssl.create_default_context()
    try:
        if settings.ca is not None:
            context = ssl.create_default_context(cafile=str(settings.ca))
        if settings.certificate is not None and settings.key is not None:
            require_private(settings.key, setting="data.pacs.key")
            context.load_cert_chain(settings.certificate, settings.key, password=_no_password)
    except (OSError, ValueError):  # of ssl too; their texts quote paths only, and say no more
        raise ConfigError(
            "a certificate or key that is missing, damaged, or locked by a password",
            expected="PEM files; the key belongs to the certificate",
            where="data.pacs.ca, data.pacs.certificate, data.pacs.key",
            next_step="Correct them.",
        ) from None
    return Tls(context, settings.host)


def require_user(credentials: Credentials) -> None:
    """Check that they can be shown over DIMSE.

    Raises:
        ConfigError: There is a token in the place of a user and a password.
    """
    if not credentials.user:
        raise ConfigError(
            "a token",
            expected="user and password, which is what DIMSE has",
            where="data.pacs.credentials",
            next_step="Write both into the file.",
        )


def _no_password() -> str:
    """Fail instead of asking at the terminal."""
    raise ValueError


def _no_trust() -> ConfigError:
    return ConfigError(
        "no trusted connection to the PACS: its certificate cannot be verified, it wants one of "
        "ours, or it speaks no TLS there",
        expected="a certificate for data.pacs.host, signed by an authority that is trusted",
        where="data.pacs.host, data.pacs.port",
        next_step="Name the hospital's own authority in data.pacs.ca, or correct host or port.",
    )
