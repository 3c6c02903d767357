"""A finished run's dead letters → dispatch again; the run's report then counts both."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from moa.command_line import Config, Overrides, run_command
from moa.config import load_config
from moa.errors import ConfigError
from moa.log import configure
from moa.pipeline.as_begun import as_begun
from moa.pipeline.redrive import Wanted, abandon, dry_run, redrive

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
Abandon = Annotated[
    bool,
    typer.Option(
        "--abandon", help="Close the redrive that is not finished with what it has, call nobody"
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be sent, call nobody")]


def main(
    config: Config,
    overrides: Overrides = [],  # noqa: B006
    reasons: Reasons = [],  # noqa: B006
    to_model: ToModel = None,
    dry: DryRun = False,
    given_up: Abandon = False,
) -> None:
    """Send the dead letters of a finished run again.

    The config says which run (run.id, run.folder), and what may differ from it: budget, patience,
    replicas, report, log. All else is as the run was first started, --set included, and need not be
    given again. Started again before it has ended, a redrive goes on where it was.
    """
    job_config = as_begun(load_config(config, overrides), overrides)
    configure(job_config.log.style, run_id=job_config.run.id)
    wanted = Wanted(tuple(sorted(set(reasons))), to_model)
    if given_up and (dry or wanted != Wanted()):
        raise ConfigError(
            "--abandon sends nothing: give it without --reason, --to-model, --dry-run"
        )
    if dry:
        print(dry_run(job_config, wanted, environ=os.environ))
        return
    redriven = abandon(job_config) if given_up else redrive(job_config, wanted, environ=os.environ)
    print(*redriven.lines, sep="\n")
    if redriven.page is not None:
        print(f"report: {redriven.page}")


if __name__ == "__main__":
    run_command(main, goes_on=True)
