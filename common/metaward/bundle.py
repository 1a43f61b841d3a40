"""The Flower bundle of this release: references to installed code, and no code.

A coordinator can only ask for the code that a hospital has installed. Both sides build the bundle
from the same release and compare its digest, so a bundle with one line more is another one.
"""

import hashlib
from pathlib import Path

APP_FOLDER = Path(__file__).parent / "flower_app"
"""What `flwr run` is given; also what a reader finds as deploy/flower-app."""


def bundle() -> bytes:
    """Return the bundle; the same bytes for every build of one release."""
    from flwr.cli.build import build_fab_from_files

    files = {path.name: path for path in APP_FOLDER.iterdir() if path.is_file()}
    return build_fab_from_files(files)[0]


def digest_of(content: bytes) -> str:
    """Return the SHA-256 of a bundle, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
