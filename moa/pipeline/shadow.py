"""Another router's decisions on a finished backlog, kept to be compared; nobody acts on them.

It has its turn after the last outcome: it delays no call, needs no machine beside the router's, and
whatever befalls it, the run has all that it is for. Its time is told and not billed to the run.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
from typing import Any

import structlog

from moa.decisions.deciding import Deciding
from moa.errors import Interrupted, MoaError
from moa.pipeline.failures import cause_of
from moa.pipeline.graph import shadow_parts
from moa.pipeline.job import Job
from moa.pipeline.stop import Stop
from moa.router.facts import read_facts
from moa.storage.run_folder import RunFolder
from moa.storage.shadow_folder import ShadowFolder

UNFINISHED = "it was stopped before its end"

log = structlog.get_logger()


def shadow_backlog(job: Job, stop: Stop) -> None:
    """Have `router.shadow` decide on all parts; started again, it goes on where it was.

    What fails is kept for the report, and raises nothing.

    Raises:
        Interrupted: it was asked to stop.
    """
    if job.config.router.shadow is None:
        return
    facts: dict[str, Any] = {"artifact": job.config.router.shadow, "version": None, "seconds": 0.0}
    began, folder = time.monotonic(), ShadowFolder(job.run_folder)
    try:
        with stop.at_once():
            shadow = shadow_of(job)
            facts["version"] = shadow.router_version
            before = folder.facts()
            if before is not None and before["version"] not in (None, shadow.router_version):
                folder.forget()
            elif before is not None:
                facts["seconds"] = before["seconds"]
            folder.note({**facts, "failure": UNFINISHED})
            _decide(job, shadow, folder)
        failure = None
    except Interrupted:
        raise
    except Exception as error:  # whatever it is: the night's work is done, and stays so
        failure = _in_words(error)
        log.warning("shadow.failed", artifact=facts["artifact"], why=failure)
    seconds = facts["seconds"] + time.monotonic() - began
    folder.note({**facts, "seconds": seconds, "failure": failure})


def shadow_problem(job: Job) -> list[str]:
    """What is wrong with the shadow, as far as it can be told before: at most one sentence."""
    try:
        if job.config.router.shadow is not None:
            shadow_of(job)
    except MoaError as error:
        return [f"router.shadow: {_in_words(error)}. The run goes on without it"]
    return []


def shadow_of(job: Job) -> Deciding:
    """What the shadow's decisions have in common: its own router, all else as the run has it.

    Raises:
        ArtifactError, ConfigError: it is not there, damaged, or does not know the pool.
    """
    router = read_facts(job.config.router.shadow or "")
    router.check_pool(job.pool)
    default = job.config.policy.default_model or router.best_constant(job.pool).model
    return replace(
        job.deciding, router_version=router.version, default_model=default, exploration=None
    )


def _decide(job: Job, shadow: Deciding, folder: ShadowFolder) -> None:
    done = set(folder.parts())
    left = [part for part in RunFolder(job.run_folder).decided_parts() if part not in done]
    if not left:
        return
    with closing(shadow_parts(job, shadow, left)) as written:
        for _ in written:
            pass


def _in_words(error: Exception) -> str:
    cause = cause_of(error)
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()] or [""]
    return lines[0] if isinstance(cause, MoaError) else f"{type(cause).__name__}: {lines[0]}"
