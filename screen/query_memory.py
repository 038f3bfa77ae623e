"""How much memory a query may take from this process: DuckDB bounds what it can put into files, not one value of gigabytes.

Nothing is bounded where the system has no such limit of a process (macOS, Windows).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa

from rankshift.screen.errors import InputError

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

MOST = 6 << 30  # bytes beyond what the process has: DuckDB's own 2 GB, and the rows on their way out
TOO_MUCH = f"the query needs more memory than it may have ({MOST / 2**30:.0f} GiB): ask for fewer or shorter values"
_PAGES = Path("/proc/self/statm")  # its first number: pages of addresses that this process has


@contextmanager
def refused_in_words() -> Iterator[None]:
    """Raises InputError where a query in the block asked for more memory than it can have."""
    try:
        yield
    except (MemoryError, duckdb.OutOfMemoryException, pa.ArrowMemoryError) as error:
        raise InputError(TOO_MUCH) from error


@contextmanager
def limited_process(most: int = MOST) -> Iterator[None]:
    """Inside, the system refuses this process more than `most` further bytes. One thread enters, and all are held to it."""
    if resource is None or not _PAGES.exists():
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    has = int(_PAGES.read_text().split()[0]) * resource.getpagesize()
    bounds = [has + most, *(bound for bound in before if bound != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_AS, (min(bounds), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
