"""A router that the gate has let through → the one that jobs and endpoints use; or one step back.

Exit code: 0 done, 1 the router may not go live, 2 something in the config or the files is wrong.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from moa.command_line import Config, Overrides, explaining, run_command
from moa.errors import NotPromoted
from moa.evaluation.promotion import (
    PromoteRouterConfig,
    history_lines,
    promote,
    roll_back,
)
from moa.storage.object_store import Folder
from moa.toml_file import describe_keys, read_toml

Explain = Annotated[bool, explaining(lambda: describe_keys(PromoteRouterConfig))]
Force = Annotated[
    str | None,
    typer.Option("--force", help="Why it shall go live whatever the gate says; is kept"),
]
Rollback = Annotated[bool, typer.Option("--rollback", help="Back to the router before")]
Reason = Annotated[str, typer.Option("--reason", help="Of a rollback; is kept")]
History = Annotated[bool, typer.Option("--history", help="Only print what was promoted, and when")]


def main(
    config: Config,
    overrides: Overrides = [],  # noqa: B006
    rollback: Rollback = False,
    reason: Reason = "rolled back",
    history: History = False,
    force: Force = None,
    explain: Explain = False,
) -> None:
    """Write the next promotion, and say what counts from now on."""
    job = read_toml(PromoteRouterConfig, config, overrides)
    if history:
        print(*history_lines(Folder(job.promotions)) or ["nothing was promoted yet"], sep="\n")
        return
    try:
        done = roll_back(job, reason=reason) if rollback else promote(job, force=force)
    except NotPromoted as refused:
        print(f"REFUSED: {refused}", file=sys.stderr)
        sys.exit(1)
    if force is not None and not rollback:
        print(f"FORCED past the gate, on record: {done.reason}", file=sys.stderr)
    print(
        f"promotion {done.number} of {job.promotions}: router {done.version} counts from now on "
        "for every run that begins, and for endpoints that are deployed again"
    )


if __name__ == "__main__":
    run_command(main)
