"""Which code this is, so that a driver and a pool of different code do not work together."""

import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("rankshift.kernels", "rankshift.screen", "rankshift.jobs")


@cache
def code_version() -> str:
    """sha256 over the names and contents of all source files of the packages, as they are installed here."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        spec = find_spec(package)
        places = (spec and spec.submodule_search_locations) or []
        root = next(Path(place) for place in places if Path(place).is_dir())
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{package}/{path.relative_to(root).as_posix()}".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
