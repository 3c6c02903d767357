"""Route a backlog of queries: score, decide, dispatch, report."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from moa.config import describe, load_config
from moa.errors import Interrupted, MoaError
from moa.log import configure
from moa.pipeline.run import dry_run, run_job

Path = Annotated[str, typer.Option("--config", help="TOML file of the job")]
Overrides = Annotated[list[str], typer.Option("--set", help="section.key=value, any number")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, call nobody")]


def _explain(wanted: bool) -> None:
    if wanted:
        print(describe(), end="")
        raise typer.Exit


Explain = Annotated[
    bool,
    typer.Option(
        "--explain-config",
        callback=_explain,
        is_eager=True,
        help="Print every key of the config with its unit, range and default, and do nothing else",
    ),
]


def main(
    config: Path,
    overrides: Overrides = [],  # noqa: B006
    dry: DryRun = False,
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
    finished = run_job(job_config, environ=os.environ)
    if finished.earlier:
        print(f"run {job_config.run.id} has finished before; nothing was done")
    print(*finished.summary, f"report: {finished.page}", sep="\n")


if __name__ == "__main__":
    try:
        typer.run(main)
    except (Interrupted, KeyboardInterrupt) as stopped:
        print(f"{stopped or 'stopped'}. The same command goes on.", file=sys.stderr)
        sys.exit(130)
    except MoaError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)
