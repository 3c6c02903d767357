"""A night's run on a Ray cluster, from outside of it: submitted once, waited for, gone on with."""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Callable
from itertools import count

log = logging.getLogger(__name__)


def entrypoint(run_id: str, *, query_log: str, app: str = "/app") -> str:
    """The line that the cluster's shell runs.

    Args:
        run_id: of the night.
        query_log: where the nights' queries are, each in a folder of its run's id.
        app: of the image.
    """
    queries = f"queries.path={query_log.rstrip('/')}/{run_id}/"
    job = ["python", "jobs/route_batch.py", "--config", "config/nightly.toml"]
    return f"cd {app} && {shlex.join([*job, '--set', f'run.id={run_id}', '--set', queries])}"


def route_night(
    run_id: str,
    command: str,
    *,
    address: str,
    every_s: float = 15.0,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Have a run be there and finished; what its driver has said is logged when it ends.

    A run that is under way is waited for, whoever has submitted it. One that has failed is
    submitted again, and goes on where it was. Ray has each submission's id once, so a try has
    one of its own; two who try at once are given the same, of which Ray takes one.

    Args:
        run_id: also the first submission's id; a later one's is `RUN_ID-2`, `RUN_ID-3`.
        command: for the shell on the cluster.
        address: of the cluster's dashboard.
        every_s: between two looks, in s.
        sleep: how to wait.

    Raises:
        RuntimeError: it has failed, or was stopped, or the cluster takes no job now.
    """
    from ray.job_submission import JobStatus, JobSubmissionClient  # noqa: TID251 - its client only

    client = JobSubmissionClient(address)
    known = {job.submission_id: job.status for job in client.list_jobs()}
    name = run_id
    # Not the same id once more, its job deleted: its supervisor may not have ended, and takes
    # the new one with it.
    for number in count(2):
        if known.get(name) not in (JobStatus.FAILED, JobStatus.STOPPED):
            break
        name = f"{run_id}-{number}"
    if name not in known:
        # With a CPU of its own the driver runs on a worker, where the keys are.
        client.submit_job(entrypoint=command, submission_id=name, entrypoint_num_cpus=1)
    while not (status := client.get_job_status(name)).is_terminal():
        sleep(every_s)
    log.info("%s", client.get_job_logs(name))
    if status != JobStatus.SUCCEEDED:
        why = client.get_job_info(name).message
        raise RuntimeError(f"{name}: {status}: {why}. The next try goes on with the run")
