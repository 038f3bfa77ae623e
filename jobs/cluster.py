"""The Ray cluster of a command: the one at RAY_ADDRESS, or a private one on this machine that ends with the command."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def cluster(workers: int) -> Iterator[None]:
    """Connect to RAY_ADDRESS, or start a private cluster with room for `workers`; leave nothing behind."""
    import ray

    if ray.is_initialized():
        yield
        return
    quiet = {"log_to_driver": False, "logging_level": logging.WARNING}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
    else:
        cpus = max(workers, os.cpu_count() or 1)
        ray.init("local", include_dashboard=False, num_cpus=cpus, object_store_memory=80 << 20, **quiet)
    try:
        yield
    finally:
        ray.shutdown()


def default_workers() -> int:
    """Workers when none are asked for: those of the cluster at RAY_ADDRESS, or of several GPUs; else 0, in process."""
    if os.environ.get("RAY_ADDRESS"):
        import ray

        with cluster(1):
            resources = ray.cluster_resources()
        return int(resources.get("GPU", 0)) or max(1, int(resources.get("CPU", 1)) // 2)
    import torch

    gpus = torch.cuda.device_count()
    return gpus if gpus > 1 else 0
