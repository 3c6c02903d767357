"""Graded outcomes of new models → a router that knows them too, and is as it was for the others."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from moa.errors import MoaError
from moa.log import configure
from moa.toml_file import describe_keys, read_toml
from moa.training.add_models import AddModelsConfig, add_models


def _explain(wanted: bool) -> None:
    if wanted:
        print(describe_keys(AddModelsConfig), end="")
        raise typer.Exit


Config = Annotated[str, typer.Option("--config", help="TOML file of the job")]
Overrides = Annotated[list[str], typer.Option("--set", help="key=value, any number")]
Explain = Annotated[
    bool,
    typer.Option(
        "--explain-config",
        callback=_explain,
        is_eager=True,
        help="Print every key with its unit and range, and do nothing else",
    ),
]


def main(config: Config, overrides: Overrides = [], explain: Explain = False) -> None:  # noqa: B006
    """Fit heads of new models; at least 200 graded queries each."""
    job = read_toml(AddModelsConfig, config, overrides)
    configure()
    added = add_models(job)
    for model, count in added.graded.items():
        print(f"  {model:28} {count:,} graded queries")
    print(f"router {added.version} in {job.artifact}")


if __name__ == "__main__":
    try:
        typer.run(main)
    except MoaError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)
