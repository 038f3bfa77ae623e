"""The Ray cluster of a command and the pool on it: the running one, or a private one that ends with the command.

Ray and torch are imported inside the functions: the command line asks here how many workers there are, and where there is
no cluster it must not wait seconds for Ray.
"""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from rankshift.jobs.pool.auth import first_token
from rankshift.jobs.pool.code_version import code_version
from rankshift.jobs.pool.connection import NAMESPACE, POOL, answered, connect, leave, lost, refuse_silent
from rankshift.jobs.pool.own_cluster import own_cluster
from rankshift.screen.errors import InputError
from rankshift.screen.extras import installed, need
from rankshift.screen.files.one_line import one_line

TTL = 15.0  # seconds a silent driver keeps its workers: long enough for a pause, short beside a shard's ten seconds
ANSWER = 30.0  # seconds a pool that is to end may take to say which workers it has
HEAD = "node:__internal_head__"  # a resource that Ray gives to the node of the head alone
OBJECTS = 80 << 20  # bytes of a private object store: nothing large goes through it
_own: ContextVar[Any] = ContextVar("own_pool", default=None)


@contextmanager
def borrowed_pool(workers: int) -> Iterator[Any]:
    """The running pool, else a private one of `workers` (0: what the cluster has) that ends with the block."""
    with ExitStack() as stack:
        stack.enter_context(connected(workers or 1))
        yield running_pool() or stack.enter_context(private_pool(workers or cluster_size()))


@contextmanager
def one_pool(workers: int) -> Iterator[None]:
    """One pool for every lease of the block: the running one, or a private one of `workers` that ends with it."""
    with ExitStack() as stack:
        stack.enter_context(connected(workers))
        if running_pool() is None:
            token = _own.set(stack.enter_context(private_pool(workers)))
            stack.callback(_own.reset, token)
        yield


@contextmanager
def connected(cpus: int) -> Iterator[None]:
    """A connection to the cluster there is (`address`), or to a private one on this machine with room for `cpus` workers."""
    import ray  # late, see above

    if ray.is_initialized():
        yield
        return
    if not _join():
        room = max(cpus, os.cpu_count() or 1)
        connect("local", include_dashboard=False, num_cpus=room, object_store_memory=OBJECTS)
    try:
        yield
    finally:
        leave()


def address() -> str | None:
    """Where a cluster is: RAY_ADDRESS, or the one of this user that was left running on this machine."""
    return named() or own_cluster()


def named() -> str | None:
    """The cluster that RAY_ADDRESS names. `auto` names none: it stands for whichever this machine has."""
    where = os.environ.get("RAY_ADDRESS")
    return None if where == "auto" else where or None


def _join() -> bool:
    """Connect to the cluster at `address`; one that was only left over on this machine may be gone."""
    where, asked = address(), named()
    if where is None:
        return False
    if asked is not None:
        refuse_silent(asked)
    try:
        connect(where)
    except (ConnectionError, RuntimeError) as error:
        if asked is None:
            return False
        raise InputError(
            f"no Ray cluster answers at RAY_ADDRESS={where} ({one_line(error)}): start it, or unset"
        ) from error
    return True


def running_pool() -> Any | None:
    """The pool on the cluster that Ray is connected to, if one was started, or that of `one_pool`."""
    import ray  # late, see above

    if (own := _own.get()) is not None:
        return own
    try:
        return ray.get_actor(POOL, namespace=NAMESPACE)
    except ValueError:
        return None


def pool_size(pool: Any) -> int:
    """How many workers a pool has."""
    return len(answered(pool.handles.remote(), "the pool"))


def cluster_size() -> int:
    """Workers a pool gets by itself: one a GPU of the cluster, else half of its CPUs."""
    import ray  # late, see above

    resources = ray.cluster_resources()
    return int(resources.get("GPU", 0)) or max(1, int(resources.get("CPU", 1)) // 2)


def default_workers() -> int:
    """Workers when none are asked for: those of the running pool or of RAY_ADDRESS, or of several GPUs; else 0, in process.

    Without Ray it is 0 wherever no cluster is named.
    """
    if named():
        need("cluster", f"RAY_ADDRESS={named()}")
    if installed("ray") and address() is not None:
        import ray  # late, see above

        already = ray.is_initialized()
        if already or _join():
            try:
                pool = running_pool()
                if pool is not None:
                    return pool_size(pool)
                if named():
                    return cluster_size()
            finally:
                if not already:
                    leave()
    import torch  # late, see above

    gpus = torch.cuda.device_count()
    return gpus if gpus > 1 and installed("ray") else 0


def make_pool(name: str, count: int, ttl: float = TTL, **more: Any) -> Any:
    """Start a pool actor with `count` workers: a GPU each where the cluster has any, else an equal share of its CPUs.

    By the name POOL it is detached: it and its workers stay until `rankshift pool stop`. more: other options of a `Pool`.
    """
    import ray  # late, see above

    from rankshift.jobs.pool.pool import Pool  # late, it imports Ray

    resources = ray.cluster_resources()
    gpus, cpus = int(resources.get("GPU", 0)), resources.get("CPU", 1)
    if count < 1:
        raise InputError(f"{count} workers were asked for: ask for 1 or more")
    if gpus and count > gpus:
        raise InputError(f"{count} workers were asked for, the cluster has {gpus} GPUs: ask for 1 to {gpus}")
    share = {"num_gpus": 1, "num_cpus": 1} if gpus else {"num_cpus": cpus / count if count > cpus else cpus // count}
    threads = None if gpus else max(1, int(share["num_cpus"]))
    options: dict[str, Any] = {"name": name, "namespace": NAMESPACE, "max_restarts": -1, "max_task_retries": -1}
    if name == POOL:
        options["lifetime"] = "detached"
    if HEAD in resources:  # without the head all is lost anyway: no other node shall take the pool along
        options["resources"] = {HEAD: 0.001}
    actor = ray.remote(num_cpus=0, max_concurrency=1000)(Pool)
    return actor.options(**options).remote(name, count, share, threads, ttl, code_version(), **more)


@contextmanager
def private_pool(count: int) -> Iterator[Any]:
    """A pool for one command; workers and pool are gone when the block ends."""
    pool = make_pool(f"private-{uuid.uuid4().hex[:8]}", count)
    try:
        yield pool
    finally:
        if not lost.is_set():
            end_pool(pool)


def end_pool(pool: Any) -> None:
    """End a pool's workers, then the pool. What they were computing is lost, what they committed stays."""
    import ray  # late, see above

    try:
        handles = ray.get(pool.handles.remote(), timeout=ANSWER)
    except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):  # it is gone, and its workers with it
        handles = {}
    for handle in handles.values():
        ray.kill(handle)
    ray.kill(pool)


def start_head() -> None:
    """Start Ray on this machine, with its dashboard for jobs and token authentication, by the `ray` of this environment."""
    ray_command = Path(sys.executable).with_name("ray")
    first_token()
    path = os.pathsep.join([str(ray_command.parent), os.environ.get("PATH", "")])
    done = subprocess.run(
        [ray_command, "start", "--head", "--disable-usage-stats"],
        env={**os.environ, "PATH": path},  # jobs run the first python on the PATH of `ray start`
        capture_output=True,
        text=True,
        umask=0o077,  # logs and sockets are for this user, whatever folder Ray puts them in
    )
    if done.returncode:
        raise InputError(
            f"Ray could not be started here ({one_line(done.stderr or done.stdout)}): try `ray start --head`"
        )
