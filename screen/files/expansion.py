"""How large stored data may become in memory: what a few bytes on the disk stand for can fill a machine.

Compression of real counts and names leaves a tenth to a hundredth. Deflate (gzip) cannot leave less than a 1,032nd.
"""

from rankshift.screen.errors import InputError

ALWAYS = 1 << 30  # bytes that any array may take
RATIO = 2_000  # beyond them: bytes in memory of one on the disk


def check_expansion(what: str, memory: int, disk: int) -> None:
    """Refuse an array of `memory` bytes, of which the file holds `disk`; `what` names the file and the array."""
    if memory > max(ALWAYS, RATIO * disk):
        raise InputError(
            f"{what} is {memory / 2**30:.1f} GiB of which {disk:,} bytes are stored, the limit is {RATIO:,} times those: write "
            "the file again"
        )
