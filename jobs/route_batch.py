"""Route a backlog of queries: score, decide, dispatch, report."""

from __future__ import annotations

import os
from decimal import Decimal
from typing import Annotated

import typer

from moa.command_line import Config, Overrides, explaining, run_command
from moa.config import describe, load_config
from moa.log import configure
from moa.pipeline.run import dry_run, plan_job, run_job

DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, call nobody")]


PlanOnly = Annotated[
    bool, typer.Option("--plan-only", help="Score and plan, show the plan, call nobody")
]
Approve = Annotated[
    float | None,
    typer.Option(
        "--approve-up-to",
        min=0,
        metavar="USD",
        help="What may be spent on calls, and the plan may be expected to cost, in place of "
        "plan.approve_usd",
    ),
]
Explain = Annotated[bool, explaining(describe)]


def main(
    config: Config,
    overrides: Overrides = [],  # noqa: B006
    dry: DryRun = False,
    plan_only: PlanOnly = False,
    approve_usd: Approve = None,
    explain: Explain = False,
) -> None:
    """Answer every query of a backlog by the model that is worth its price.

    Started again under the same run.id, the run goes on where it was.
    """
    job_config = load_config(config, overrides)
    configure(job_config.log.style, run_id=job_config.run.id)
    if dry:
        print(dry_run(job_config, environ=os.environ))
        return
    if plan_only:
        planned = plan_job(job_config, environ=os.environ)
        print(*planned.summary, f"plan: {planned.page}", sep="\n")
        return
    approved = None if approve_usd is None else Decimal(str(approve_usd))
    finished = run_job(job_config, environ=os.environ, approve_usd=approved)
    if finished.earlier:
        print(f"run {job_config.run.id} has finished before; nothing was done")
    print(*finished.summary, f"report: {finished.page}", sep="\n")


if __name__ == "__main__":
    run_command(main, goes_on=True)
