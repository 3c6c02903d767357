"""A night's run on a Ray cluster, from outside of it: submitted once, waited for, gone on with."""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Callable

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
    submitted again under the same id, and goes on where it was.

    Args:
        run_id: also the submission's id, of which Ray has each once.
        command: for the shell on the cluster.
        address: of the cluster's dashboard.
        every_s: between two looks, in s.
        sleep: how to wait.

    Raises:
        RuntimeError: it has failed, or was stopped.
    """
    from ray.job_submission import JobStatus, JobSubmissionClient  # noqa: TID251 - its client only

    client = JobSubmissionClient(address)
    known = {job.submission_id: job.status for job in client.list_jobs()}
    if known.get(run_id) in (JobStatus.FAILED, JobStatus.STOPPED):
        client.delete_job(run_id)  # what the run has is in its folder
        del known[run_id]
    if run_id not in known:
        # By an id, a second submission is refused. With a CPU of its own the driver runs on a
        # worker, where the keys are.
        client.submit_job(entrypoint=command, submission_id=run_id, entrypoint_num_cpus=1)
    while not (status := client.get_job_status(run_id)).is_terminal():
        sleep(every_s)
    log.info("%s", client.get_job_logs(run_id))
    if status != JobStatus.SUCCEEDED:
        why = client.get_job_info(run_id).message
        raise RuntimeError(f"{run_id}: {status}: {why}. The next try goes on with the run")
