"""The device of whoever computes, and the policy that hangs on it: how large batches and shards are, and which dtype is meant.

Nothing else asks torch what this machine has. A driver does not decide by its own device for workers that have another one.
"""

from dataclasses import dataclass

import torch

TOKEN_BUDGET = {"cpu": 65_536, "cuda": 131_072}  # rows of a batch: 64 MB of float32 at 256 dims on a CPU
SHARD_FLOPS = {"cpu": 2e12, "cuda": 5e14}  # ten seconds or so: little is lost with a worker, and markers stay few


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device as torch names it (cpu, cuda), what its maker calls it, and whether it multiplies 16 bits natively."""

    kind: str
    name: str = ""
    native_16_bit: bool = False

    @staticmethod
    def here() -> "Device":
        """The device of this process: its GPU where there is one."""
        if torch.cuda.is_available():
            return Device(kind="cuda", name=torch.cuda.get_device_name(), native_16_bit=True)
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return Device(kind="cpu", native_16_bit=native)

    @property
    def token_budget(self) -> int:
        """Rows of a batch, where nobody asks for another number."""
        return TOKEN_BUDGET[self.kind]

    @property
    def shard_flops(self) -> float:
        """FLOP of a shard, where nobody asks for a size."""
        return SHARD_FLOPS[self.kind]

    @property
    def dtype(self) -> str | None:
        """What `dtype auto` means: float16 on a GPU, float32 where there are no 16-bit products, None where a trial decides."""
        if self.kind == "cuda":
            return "float16"
        return None if self.native_16_bit else "float32"


def default_device() -> str:
    """cuda where there is one, else cpu."""
    return Device.here().kind
