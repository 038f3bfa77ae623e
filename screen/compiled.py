"""Small C loops, compiled once per machine by the system's own compiler and loaded with ctypes.

For loops that no array library offers. Where there is no compiler the caller's plain numpy version runs instead, so
nothing depends on this for its result; it never downloads or links anything.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

# No fused multiply-add: a product rounded once instead of twice would order near-ties differently from numpy.
FLAGS = ("-O2", "-std=c99", "-ffp-contract=off", "-shared", "-fPIC")


@cache
def load(source: str) -> ctypes.CDLL | None:
    """The compiled `source`, or None when there is no working compiler (CC, else cc) or no place to keep its output."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None or sys.platform == "win32":
        return None
    identity = "\n".join((source, *FLAGS, platform.machine(), sys.platform))
    name = f"{hashlib.sha256(identity.encode()).hexdigest()[:24]}.so"
    for folder in (_kept, _passing):
        try:
            library = folder() / name
            if not library.exists():
                _compile(compiler, source, library)
            return ctypes.CDLL(str(library))
        except (OSError, subprocess.SubprocessError):
            continue
    return None


def _compile(compiler: str, source: str, library: Path) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        code, made = Path(folder) / "loop.c", Path(folder) / "loop.so"
        code.write_text(source)
        subprocess.run([compiler, *FLAGS, "-o", made, code], check=True, capture_output=True, timeout=60)
        os.replace(made, library)


def _kept() -> Path:
    """The user's own cache folder, closed to others because what lies there is executed."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(root) / "rankshift"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o022:
        raise OSError(f"{folder} can be written by others")
    return folder


@cache
def _passing() -> Path:
    return Path(tempfile.mkdtemp(prefix="rankshift-"))
