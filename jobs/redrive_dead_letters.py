"""A finished run's dead letters → dispatch again; the run's report then counts both."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from moa.command_line import Config, Overrides, run_command
from moa.config import load_config
from moa.errors import Interrupted
from moa.log import configure
from moa.pipeline.redrive import Wanted, dry_run, redrive

Reasons = Annotated[
    list[str],
    typer.Option("--reason", help="Only dead letters of this reason; any number, by default all"),
]
ToModel = Annotated[
    str | None,
    typer.Option(
        "--to-model",
        help="Catalog id of the one model to ask; by default whom the run has decided on",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be sent, call nobody")]


def main(
    config: Config,
    overrides: Overrides = [],  # noqa: B006
    reasons: Reasons = [],  # noqa: B006
    to_model: ToModel = None,
    dry: DryRun = False,
) -> None:
    """Send the dead letters of a finished run again, by the config that made it.

    Started again before it has ended, it goes on where it was.
    """
    job_config = load_config(config, overrides)
    configure(job_config.log.style, run_id=job_config.run.id)
    wanted = Wanted(tuple(sorted(set(reasons))), to_model)
    if dry:
        print(dry_run(job_config, wanted, environ=os.environ))
        return
    redriven = redrive(job_config, wanted, environ=os.environ)
    print(*redriven.lines, sep="\n")
    if redriven.page is not None:
        print(f"report: {redriven.page}")


if __name__ == "__main__":
    try:
        run_command(main)
    except (Interrupted, KeyboardInterrupt) as stopped:
        print(f"{stopped or 'stopped'}. The same command goes on.", file=sys.stderr)
        sys.exit(130)
