"""Can this machine reach the coordinator, is it the right one, and do both have the same time?

Asked by the library that Flower's node itself uses, so by the same road: ``https_proxy``,
``no_proxy`` and the authority of the kit mean here what they mean there. Nothing leaves but a TLS
greeting and two empty requests.
"""

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx  # comes with Flower

from metaward.certificate_file import trusting
from metaward.errors import ConfigError
from metaward.health import NOT_BEHIND, PULL_PATH
from metaward_client.node.finding import Finding

TIMEOUT_S = 10.0
AHEAD_S, BEHIND_S = 4.0, 240.0
"""Flower's node signs the time. The coordinator takes what is up to five minutes old, and at most
five seconds from the future."""
SOON_DAYS = 30
JOIN_AGAIN = "Take the kit once more: metaward site join"
SHUT_PATH = "/v1/control/list-nodes"


def look_at_coordinator(address: str, ca_certificate: Path) -> Iterator[Finding]:
    """Give a line each for the coordinator, its certificate and the clock; raise nothing."""
    try:
        context = trusting(ca_certificate, next_step=JOIN_AGAIN)
    except ConfigError as error:
        said = f"{error.found} ({error.where})"
        yield Finding("coordinator", "wrong", said, error.next_step, error.exit_code)
        return
    try:
        with httpx.Client(verify=context, timeout=TIMEOUT_S) as client:
            answer = client.post(f"https://{address}{PULL_PATH}")
            certificate = _certificate(answer)
            shut = client.post(f"https://{address}{SHUT_PATH}").status_code
    except (httpx.HTTPError, OSError) as error:
        yield _unreachable(address, error)
        return
    yield certificate
    yield _answer(answer.status_code, shut, _proxy_to(address))
    yield _clock(answer.headers.get("Date", ""))


def _proxy_to(address: str) -> str:
    """Return host and port of the proxy on the way to an address, without its password."""
    proxies = getproxies()
    proxy = proxies.get("https") or proxies.get("all") or ""
    if not proxy or proxy_bypass(address.rpartition(":")[0].strip("[]")):
        return ""
    return urlsplit(proxy if "//" in proxy else f"//{proxy}").netloc.rpartition("@")[2]


TIME_IS_WRONG = (9, 10)
"""OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED."""


def _unreachable(address: str, error: Exception) -> Finding:
    proxy = _proxy_to(address)
    cause = _cause(error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        said = f"the certificate is not accepted ({cause.verify_message})"
        if cause.verify_code in TIME_IS_WRONG:
            step = "Is the clock right? Then the coordinator has to renew; the kit stays."
        else:
            step = "Do not go on: somebody may stand between. Ask the coordinator, by telephone."
            if proxy:
                step += f" Does the proxy {proxy} open TLS? It must not for {address}."
    elif isinstance(error, httpx.ProxyError):
        said = f"the proxy {proxy} refuses the way to {address} ({error})"
        step = "Ask who runs the proxy to let CONNECT through to that address and port."
    elif proxy:
        said = f"{address} cannot be reached through the proxy {proxy} ({_reason(cause)})"
        step = "Is https_proxy right? Does the firewall let this machine out to the proxy?"
    else:
        said = f"{address} cannot be reached ({_reason(cause)})"
        step = (
            "Is it started? Does the firewall let this machine out to that address and port? "
            "Where there is a proxy: set https_proxy."
        )
    return Finding("coordinator", "wrong", said, step, 5)


def _cause(error: BaseException) -> BaseException:
    """Return what lies under the library's own errors: mostly one of the operating system's."""
    while (under := error.__cause__ or error.__context__) is not None:
        error = under
    return error


def _reason(cause: BaseException) -> str:
    if isinstance(cause, TimeoutError | httpx.TimeoutException):
        return f"no answer in {TIMEOUT_S:.0f} s"
    return getattr(cause, "strerror", None) or type(cause).__name__


def _certificate(answer: httpx.Response) -> Finding:
    tls = answer.extensions["network_stream"].get_extra_info("ssl_object")
    end = ssl.cert_time_to_seconds(str(tls.getpeercert()["notAfter"]))
    days = (datetime.fromtimestamp(end, UTC) - datetime.now(UTC)).days
    state, step = ("ok", "") if days >= SOON_DAYS else ("warn", "Tell the coordinator.")
    return Finding("certificate", state, f"of the kit's authority, {days} days left", step, 5)


def _answer(status: int, shut: int, proxy: str) -> Finding:
    if status in NOT_BEHIND:
        said = f"something answers, but no SuperLink behind it (HTTP {status})"
        return Finding("coordinator", "wrong", said, "Ask whether the coordinator is started.", 5)
    if shut != HTTPStatus.NOT_FOUND:
        said = "its control interface is open to the network: others could start code"
        return Finding("coordinator", "wrong", said, "Do not start. Tell the coordinator.", 5)
    through = f" through the proxy {proxy}" if proxy else ""
    said = f"reached over TLS{through}; its control interface is shut"
    return Finding("coordinator", "ok", said)


def _clock(date: str) -> Finding:
    try:
        off = (datetime.now(UTC) - parsedate_to_datetime(date)).total_seconds()
    except (TypeError, ValueError):
        return Finding("clock", "warn", "the coordinator did not say its time", "Check the clock.")
    if not -BEHIND_S <= off <= AHEAD_S:
        said = f"{abs(off):.0f} s {'ahead of' if off > 0 else 'behind'} the coordinator's"
        return Finding("clock", "wrong", said, "Set it (chrony or systemd-timesyncd).", 5)
    return Finding("clock", "ok", "that of the coordinator")
