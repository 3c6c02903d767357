"""List the batches that a run has out with its vendors, and cancel them."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from moa.command_line import Config, Overrides, run_command
from moa.config import load_config
from moa.log import configure
from moa.pipeline.batches import open_batches_of, table

Cancel = Annotated[
    list[str],
    typer.Option(
        "--cancel",
        metavar="ID|all",
        help="Ask its vendor to end a batch; what it has answered is kept, the rest is bought live "
        "by the run",
    ),
]


def main(config: Config, overrides: Overrides = [], cancel: Cancel = []) -> None:  # noqa: B006
    """Show each batch with its queries, its state, its age and when it is likely to end."""
    job_config = load_config(config, overrides)
    configure(job_config.log.style, run_id=job_config.run.id)
    batches = open_batches_of(job_config, os.environ, cancel)
    print(*(table(batches) if batches else ["no batch is out"]), sep="\n")


if __name__ == "__main__":
    run_command(main)
