"""The checksum by which a file is known: sha256 over its bytes."""

import hashlib
from pathlib import Path


def sha256_of(path: Path) -> str:
    """Of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
