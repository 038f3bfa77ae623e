"""Several hosts on one switch, made of network namespaces of this machine: cables can be cut, hosts come and go.

They share the disk but Ray's folder, of which each has its own. That needs root and the command ip (iproute2).
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support import PATIENCE, ROOT, until

RAY = (sys.executable, "-c", "import sys; from ray.scripts.scripts import main; sys.exit(main())")
PORT = 6379  # Ray's head
STORE = 5000  # the S3 service


def ip(*words: str) -> None:
    """One command of iproute2."""
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Hosts:
    """Hosts 1 to `count`; on the first run Ray's head and an S3 service. Everything in the namespaces ends with `close`."""

    def __init__(self, count: int) -> None:
        self.names = {host: f"rs{os.getpid()}h{host}" for host in range(1, count + 1)}
        self._switch = f"rs{os.getpid()}sw"
        self.folder = Path(tempfile.mkdtemp(prefix="rs", dir="/tmp"))  # short: Ray's sockets have long names
        self._made: list[str] = []

    def make(self) -> bool:
        """Make the namespaces and the cables; False where that is not allowed."""
        for name in (self._switch, *self.names.values()):
            if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
                return False
            self._made.append(name)
        ip("-n", self._switch, "link", "add", "name", "switch", "type", "bridge")
        ip("-n", self._switch, "link", "set", "switch", "up")
        for host, name in self.names.items():
            ip(*f"link add port{host} netns {self._switch} type veth peer name eth0 netns {name}".split())
            ip(*f"-n {self._switch} link set port{host} master switch up".split())
            ip(*f"-n {name} addr add {self.address(host)}/24 dev eth0".split())
            for device in ("eth0", "lo"):
                ip("-n", name, "link", "set", device, "up")
            (self.folder / f"host{host}").mkdir()
        for shared in ("ray", "home"):
            (self.folder / shared).mkdir()
        return True

    def close(self) -> None:
        """End every process in the namespaces, then the namespaces."""
        for name in self._made:
            for _ in range(3):  # one that is being started is not in the list yet
                for pid in self._pids(name):
                    self._kill(pid)
            ip("netns", "del", name)
        shutil.rmtree(self.folder, ignore_errors=True)

    def address(self, host: int) -> str:
        """Of a host."""
        return f"10.98.0.{host}"

    def cut(self, host: int) -> None:
        """The cable of a host is pulled out: nothing is said to anybody."""
        ip("-n", self.names[host], "link", "set", "eth0", "down")

    def mend(self, host: int) -> None:
        """The cable is put back."""
        ip("-n", self.names[host], "link", "set", "eth0", "up")

    def kill(self, host: int, program: str) -> None:
        """SIGKILL to a program of Ray on a host: raylet, gcs_server."""
        found = [pid for pid in self._pids(self.names[host]) if self._program(pid) == program]
        assert found, f"no {program} on host {host}"
        for pid in found:
            self._kill(pid)

    def runs(self, host: int, program: str) -> bool:
        """Does the program run there?"""
        return any(self._program(pid) == program for pid in self._pids(self.names[host]))

    def start(self, host: int, name: str, *command: object) -> subprocess.Popen:
        """A command on a host, with its output in the file `name` of the folder."""
        own, shared = self.folder / f"host{host}", self.folder / "ray"
        words = [sys.executable, "-m", "rankshift.jobs.cli", *command] if isinstance(command[0], str) else command[0]
        script = f'mount --bind {own} {shared} && exec "$@"'
        with (self.folder / name).open("wb") as log:
            return subprocess.Popen(
                ["ip", "netns", "exec", self.names[host], "sh", "-c", script, "sh", *map(str, words)],
                stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=self._environment(), cwd=ROOT,
            )  # fmt: skip

    def run(self, host: int, *command: object) -> tuple[int, str]:
        """Exit code and output of a command on a host."""
        name = f"{command[0] if isinstance(command[0], str) else 'program'}-{os.urandom(4).hex()}.log"
        code = self.start(host, name, *command).wait(PATIENCE)
        return code, self.said(name)

    def said(self, name: str) -> str:
        """What a command has written."""
        return (self.folder / name).read_text(errors="replace")

    def ray(self, *some: int) -> None:
        """Start Ray on hosts, the head on the first."""
        more = ["--num-cpus=1", "--object-store-memory=100000000", "--disable-usage-stats", "--block"]
        for host in some:
            role = (
                ["--head", f"--port={PORT}", "--include-dashboard=false"]
                if host == 1
                else [f"--address={self.address(1)}:{PORT}"]
            )
            words = [*RAY, "start", *role, f"--node-ip-address={self.address(host)}", *more]
            self.start(host, f"ray{host}.log", words)
        until(lambda: all("will now block" in self.said(f"ray{host}.log") for host in some))

    def _environment(self) -> dict[str, str]:
        names = ("PATH", "PYTHONPATH", "LANG", "LC_ALL")
        return {
            **{name: os.environ[name] for name in names if name in os.environ},
            "HOME": str(self.folder / "home"),
            "RAY_TMPDIR": str(self.folder / "ray"),
            "TMPDIR": str(self.folder / "ray"),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
            "RAY_USAGE_STATS_ENABLED": "0",
            # The head gives a node up after three questions without an answer, as docs/cluster.md advises.
            "RAY_health_check_period_ms": "2000",
            "RAY_health_check_timeout_ms": "2000",
            "RAY_health_check_failure_threshold": "3",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            "RAY_ADDRESS": f"{self.address(1)}:{PORT}",
            "GLOO_SOCKET_IFNAME": "eth0",  # all hosts have one name here, which leads nowhere
            "OMP_NUM_THREADS": "1",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://{self.address(1)}:{STORE}",
        }

    @staticmethod
    def _pids(name: str) -> list[int]:
        return [int(pid) for pid in subprocess.run(["ip", "netns", "pids", name], capture_output=True).stdout.split()]

    @staticmethod
    def _program(pid: int) -> str:
        try:
            return Path(f"/proc/{pid}/exe").readlink().name
        except OSError:
            return ""

    @staticmethod
    def _kill(pid: int) -> None:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return


@contextmanager
def hosts(count: int, skip: Callable[[str], Any]) -> Iterator[Hosts]:
    """So many hosts for a block; `skip` is called with the reason where there can be none."""
    if shutil.which("ip") is None or os.geteuid():
        skip("hosts of network namespaces need root and the command ip (iproute2)")
    made = Hosts(count)
    try:
        if not made.make():
            skip("no network namespace can be made here")
        yield made
    finally:
        made.close()
