"""A line that only this site can write: canonical JSON, its SHA-256, a MAC under the site's key.

    {"body":{...},"hash":"<SHA-256 of the body>","mac":"<HMAC-SHA256 of purpose and hash>"}

The body is verified as the bytes that stand there: no other spelling of the same JSON passes.
The purpose keeps an entry from being read as a head, and the other way round.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any

PREFIX = b'{"body":'
HASH, MAC, END = b',"hash":"', b'","mac":"', b'"}'
HEX = 64
TAIL = len(HASH) + HEX + len(MAC) + HEX + len(END)

Body = Mapping[str, Any]  # Any: JSON holds any plain value


class BrokenSealError(ValueError):
    """The bytes were not sealed under this key for this purpose, or were changed since."""


def canonical(body: Body) -> bytes:
    r"""Return the one spelling of a JSON object: ASCII, sorted keys, no spaces, no NaN.

    >>> canonical({"b": 1.5, "a": "é"})
    b'{"a":"\\u00e9","b":1.5}'
    """
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii")


def seal(body: Body, key: bytes, purpose: bytes) -> tuple[bytes, str]:
    """Return the sealed line, without line end, and the body's SHA-256 in hex."""
    content = canonical(body)
    tail, digest = _tail(content, key, purpose)
    return PREFIX + content + tail, digest


def unseal(line: bytes, key: bytes, purpose: bytes) -> tuple[dict[str, Any], str]:
    """Return the body of a sealed line and the body's SHA-256 in hex.

    Raises:
        BrokenSealError: See there.
    """
    content = line[len(PREFIX) : -TAIL]
    tail, digest = _tail(content, key, purpose)
    if not (line.startswith(PREFIX) and hmac.compare_digest(line[-TAIL:], tail)):
        raise BrokenSealError
    return json.loads(content.decode("ascii")), digest


def _tail(content: bytes, key: bytes, purpose: bytes) -> tuple[bytes, str]:
    digest = hashlib.sha256(content).hexdigest()
    mac = hmac.digest(key, b"%b %b" % (purpose, digest.encode()), "sha256").hex()
    return b"%b%b%b%b%b" % (HASH, digest.encode(), MAC, mac.encode(), END), digest
