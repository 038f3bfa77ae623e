"""The device of whoever computes, and the policy that hangs on it: how large batches and shards are, and which dtype is meant.

Nothing else asks torch what this machine has. A driver does not decide by its own device for workers that have another one.
"""

from dataclasses import dataclass

import torch

TOKEN_BUDGET = {"cpu": 65_536, "cuda": 131_072}  # rows of a batch: 64 MB of float32 at 256 dims on a CPU
# Of what originals read and gave, kept beside their lists where products are on differences (`families.originals`).
KEPT_BYTES = {"cpu": 2 << 30, "cuda": 16 << 30}
# A shard is about ten seconds of work, so that a lost worker costs little and markers stay few.
SHARD_FLOPS = {"cpu": 2e12, "cuda": 5e14}

# Words of errors that mean memory. Triton's "out of resource" is none: it means a multiprocessor's own, of any batch.
OUT_OF_MEMORY = (
    "out of memory",  # of CUDA's runtime and driver, and of Triton's launcher
    "status_alloc_failed",  # of cuBLAS, cuBLASLt, cuDNN and hipBLAS
    "hiperroroutofmemory",
    "can't allocate memory",  # of torch on a CPU
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device as torch names it (cpu, cuda), what its maker calls it, and whether it multiplies 16 and 8 bits natively."""

    kind: str
    name: str = ""
    native_16_bit: bool = False
    native_8_bit: bool = False

    @staticmethod
    def here() -> "Device":
        """The device of this process: its GPU where there is one."""
        if torch.cuda.is_available():
            return Device(kind="cuda", name=torch.cuda.get_device_name(), native_16_bit=True, native_8_bit=True)
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return Device(kind="cpu", native_16_bit=native, native_8_bit=torch.cpu._is_vnni_supported())

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
        """What `dtype auto` means: float16 on a GPU, float32 where no product has few bits, None where a trial decides."""
        if self.kind == "cuda":
            return "float16"
        return None if self.native_16_bit or self.native_8_bit else "float32"


def out_of_memory(error: BaseException) -> bool:
    """Was it a device's memory? torch has a type for its own allocator; libraries beside it and the CPU say it in words."""
    words = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or any(word in words for word in OUT_OF_MEMORY)


def computed_by(device: torch.device) -> dict[str, str]:
    """What numbers depend on beside the model and the cells, for the record: the device, its name and the versions on it."""
    if device.type != "cuda":
        return {"device": str(device), "torch": torch.__version__}
    import triton  # optional dependency: not every platform has it, and only a GPU asks

    return {
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device),
        "torch": torch.__version__,
        "cuda": torch.version.cuda or torch.version.hip or "",
        "cudnn": str(torch.backends.cudnn.version()),
        "triton": triton.__version__,
    }


def default_device() -> str:
    """cuda where there is one, else cpu."""
    return Device.here().kind
