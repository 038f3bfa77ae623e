"""`rankshift submit`: verbs as jobs of a Ray cluster, from any machine that reaches its dashboard."""

import asyncio
import logging
import os
import shlex
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rankshift.jobs.show.escapes import printable
from rankshift.screen.errors import InputError, redacted
from rankshift.screen.files.one_line import one_line

Say = Callable[[str], None]
HERE = "http://127.0.0.1:8265"  # where `ray start --head` puts the dashboard
PREFIX = "rankshift-"
OVER = {JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.STOPPED}
POLL = 0.5  # seconds between looks at a job that ends
FRESH = 60.0  # seconds in which a cluster that was just started begins to take jobs
STOPPED = 3  # exit code: stopped, resumable


def connect(address: str | None = None) -> JobSubmissionClient:
    """A client of the cluster's jobs; `address` is that of its dashboard."""
    logging.getLogger("ray").setLevel(logging.WARNING)  # it tells of every log line it fetches
    where = address or os.environ.get("RAY_API_SERVER_ADDRESS") or HERE
    os.environ["RAY_API_SERVER_ADDRESS"] = where  # else Ray would take one that is set there before the one given
    try:
        return JobSubmissionClient(where)
    except (ConnectionError, RuntimeError) as error:
        raise InputError(
            f"no dashboard answers at {where} ({one_line(error)}): start one (rankshift pool start), or give --address"
        ) from error


def submit(
    client: JobSubmissionClient,
    command: list[str],
    *,
    folder: Path | None = None,
    follow: bool = False,
    say: Say = print,
) -> int:
    """Send a verb with its options; returns 0 once it is queued, or with `follow` the job's own exit code.

    The job begins in `folder` of a node, by default the present one: paths must be the same on every node.
    """
    if command[0] in ("submit", "pool"):
        raise InputError(f"a job cannot {command[0]}: give a verb that computes, as screen or finetune")
    where = shlex.quote(str(folder or Path.cwd()))
    entry = f"cd {where} && exec python -m rankshift.jobs.cli {shlex.join(command)}"
    if redacted(entry) != entry:
        raise InputError(
            f"{redacted(shlex.join(command))}: a cluster keeps and shows the command of a job, with the keys in its URLs: "
            "leave them out, and set AWS_ACCESS_KEY_ID and the like on every node"
        )
    job = f"{PREFIX}{command[0]}-{int(time.time() * 1000):x}"
    _send(client, entry, job, command[0])
    print(job, flush=True)
    if not follow:
        say(f"rankshift submit --logs {job} follows it, --stop {job} ends it")
        return 0
    return _follow(client, job, say)


def _send(client: JobSubmissionClient, entry: str, job: str, verb: str) -> None:
    """Send a job; a cluster that was just started has no agent that takes it, so it is sent again for FRESH seconds."""
    until = time.monotonic() + FRESH
    while True:
        try:
            client.submit_job(entrypoint=entry, submission_id=job, metadata={"verb": verb})
            return
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(POLL)


def follow(client: JobSubmissionClient, job: str, *, say: Say = print) -> int:
    """Show the log of a job as it is written; returns the job's exit code."""
    _details(client, job)
    return _follow(client, job, say)


def stop(client: JobSubmissionClient, job: str, *, say: Say = print) -> int:
    """Stop a job and wait until it is over. What it committed stays, and --resume goes on."""
    if _details(client, job).status not in OVER:
        client.stop_job(job)
        while _details(client, job).status not in OVER:
            time.sleep(POLL)
    say(f"{job}: {_details(client, job).status.value.lower()}")
    return 0


def show(client: JobSubmissionClient, job: str | None = None) -> int:
    """Print all jobs of rankshift, or one."""
    jobs = [_details(client, job)] if job else client.list_jobs()
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("job", "status", "exit code", "began", "command"):
        table.add_column(column, overflow="fold")
    for one in sorted(jobs, key=lambda j: j.start_time or 0):
        if one.submission_id is None or not one.submission_id.startswith(PREFIX):
            continue
        began = f"{datetime.fromtimestamp(one.start_time / 1000):%Y-%m-%d %H:%M:%S}" if one.start_time else ""
        code = "" if one.status not in OVER else str(exit_code(one))
        command = one.entrypoint.split("rankshift.jobs.cli ", 1)[-1]
        row = (one.submission_id, one.status.value.lower(), code, began, redacted(command))
        table.add_row(*(Text(printable(cell)) for cell in row))
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    return 0


def exit_code(job: JobDetails) -> int:
    """The exit code of a job that is over: the command's own, and 3 of one that was stopped."""
    if job.status == JobStatus.STOPPED:
        return STOPPED
    if job.driver_exit_code is not None:
        return int(job.driver_exit_code)
    return 0 if job.status == JobStatus.SUCCEEDED else 1


def _follow(client: JobSubmissionClient, job: str, say: Say) -> int:
    async def tail() -> None:
        async for lines in client.tail_job_logs(job):
            print(printable(lines, keep="\n\t\r"), end="", flush=True)

    asyncio.run(tail())
    while (details := _details(client, job)).status not in OVER:
        time.sleep(POLL)
    code = exit_code(details)
    if code:
        say(f"{job}: {details.status.value.lower()}, exit code {code}")
    return code


def _details(client: JobSubmissionClient, job: str) -> JobDetails:
    try:
        return client.get_job_info(job)
    except RuntimeError as error:
        raise InputError(f"job {job} is unknown to the cluster: rankshift submit --list names them") from error
