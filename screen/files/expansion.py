"""How large stored data may become in memory: what a few bytes on the disk stand for can fill a machine.

Compression of real counts and names leaves a tenth to a hundredth. Deflate (gzip) cannot leave less than a 1,032nd.
"""

from collections.abc import Callable

from rankshift.screen.errors import InputError

ALWAYS = 1 << 30  # bytes that any array may take
RATIO = 2_000  # beyond them: bytes in memory of one on the disk


def check_expansion(what: str, memory: int, stored: Callable[[], int]) -> None:
    """Refuse an array of `memory` bytes, of which next to nothing is stored; `what` names the file and the array.

    stored: counts the bytes on the disk, piece by piece, and so is asked of large arrays only.
    """
    if memory > ALWAYS and memory > RATIO * (disk := stored()):
        raise InputError(
            f"{what} is {memory / 2**30:.1f} GiB of which {disk:,} bytes are stored, the limit is {RATIO:,} times those: write "
            "the file again"
        )
