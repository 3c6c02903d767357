"""A run → its cost report again, for instance after a grade file has come in."""

from __future__ import annotations

from typing import Annotated

import typer

from moa.command_line import run_command
from moa.config import load_config
from moa.pipeline.failures import told_plainly
from moa.reports.run_report import write_report

Run = Annotated[str, typer.Argument(help="The run's folder: a path, s3://… or gs://…")]
Path = Annotated[
    str | None,
    typer.Option(
        "--config",
        help="Whose [report] and router.usd_per_hour count, by default the run's own; all else is "
        "as the run was made",
    ),
]
Overrides = Annotated[
    list[str], typer.Option("--set", help="report.KEY=VALUE or router.usd_per_hour=VALUE")
]


def main(run: Run, config: Path = None, overrides: Overrides = []) -> None:  # noqa: B006
    """Write report.json, report.parquet and report.html into the run's folder."""
    with told_plainly():
        written = write_report(run, load_config(config) if config else None, overrides)
    print(*written.summary, f"report: {written.page}", sep="\n")


if __name__ == "__main__":
    run_command(main)
