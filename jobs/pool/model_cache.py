"""Models that stay in a worker's memory from one lease to the next, so that only the first one waits for the disk."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from time import perf_counter

from torch import Tensor

from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.encoder.device import default_device
from rankshift.screen.encoder.encoder import Encoder
from rankshift.screen.families.family import encoder_weights

KEPT = 2  # encoders, and as many sets of weights: a screen and the one before it
Weights = Mapping[str, Tensor]
log = logging.getLogger(__name__)


class ModelCache:
    """Encoders by (weights, dtype) and weights that were trained here, by their sha256; the least used goes first.

    loads: (sha256, dtype, "memory", "peer" or "disk", seconds) of every encoder that had to be made.
    """

    def __init__(self) -> None:
        self.loads: list[tuple[str, str, str, float]] = []
        self._encoders: OrderedDict[tuple[str, str], Encoder] = OrderedDict()
        self._trained: OrderedDict[str, Weights] = OrderedDict()

    def encoder(
        self, bundle: Bundle, dtype: str = "float32", fetch: Callable[[str], Weights | None] = lambda sha: None
    ) -> Encoder:
        """The encoder of a bundle: warm, else of weights trained here, else of those that `fetch` has, else from disk."""
        key = (bundle.weights_sha256, dtype)
        if key not in self._encoders:
            began = perf_counter()
            source, weights = "memory", self._trained.get(bundle.weights_sha256)
            if weights is None:
                source, weights = "peer", fetch(bundle.weights_sha256)
            if weights is None:
                source = "disk"
            self._encoders[key] = Encoder(bundle, device=default_device(), dtype=dtype, weights=weights)
            self.loads.append((*key, source, perf_counter() - began))
            log.info("model %s %s from %s in %.2f s", key[0][:12], dtype, source, self.loads[-1][-1])
            _trim(self._encoders)
        self._encoders.move_to_end(key)
        return self._encoders[key]

    def keep(self, sha256: str, weights: Weights) -> None:
        """Keep weights that were trained here, under the name they have on disk; in the host's memory, for any worker."""
        self._trained[sha256] = {name: tensor.cpu() for name, tensor in (encoder_weights(weights) or {}).items()}
        _trim(self._trained)

    def trained(self, sha256: str) -> Weights | None:
        """Weights trained here, if they are still kept."""
        return self._trained.get(sha256)

    def drop_encoders(self) -> None:
        """Make room: a training needs the memory of the device."""
        self._encoders.clear()

    @property
    def models(self) -> list[str]:
        """sha256 of all weights that are in memory."""
        return sorted({sha for sha, _ in self._encoders} | set(self._trained))


def _trim(kept: OrderedDict) -> None:
    while len(kept) > KEPT:
        kept.popitem(last=False)
