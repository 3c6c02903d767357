"""What the jobs' command lines share: their options, and errors told in a line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from moa.errors import Interrupted, MoaError

Config = Annotated[str, typer.Option("--config", help="TOML file of the job")]
Overrides = Annotated[
    list[str], typer.Option("--set", help="key=value or section.key=value, any number")
]


def explaining(text: Callable[[], str]) -> Any:  # noqa: ANN401 - as typer's options are typed
    """The option `--explain-config`.

    Args:
        text: every key of the job's config.
    """

    def explain(wanted: bool) -> None:
        if wanted:
            typer.echo(text(), nl=False)
            raise typer.Exit

    return typer.Option(
        "--explain-config",
        callback=explain,
        is_eager=True,
        help="Print every key of the config with its unit, range and default, and do nothing else",
    )


def run_command(main: Callable[..., None], *, goes_on: bool = False) -> None:
    """Run a job as the command line says; what is wrong with its input is one line and status 2.

    Args:
        main: the job.
        goes_on: stopped by whomever, it is gone on with by the same command, and says so.
    """
    try:
        typer.run(main)
    except (Interrupted, KeyboardInterrupt) as stopped:
        if not goes_on:
            raise
        typer.echo(f"{stopped or 'stopped'}. The same command goes on.", err=True)
        sys.exit(130)
    except MoaError as error:
        typer.echo(f"{type(error).__name__}: {error}", err=True)
        sys.exit(2)
