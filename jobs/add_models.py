"""Graded outcomes of new models → a router that knows them too, and is as it was for the others."""

from __future__ import annotations

from typing import Annotated

from moa.command_line import Config, Overrides, explaining, run_command
from moa.log import configure
from moa.toml_file import describe_keys, read_toml
from moa.training.add_models import AddModelsConfig, add_models

Explain = Annotated[bool, explaining(lambda: describe_keys(AddModelsConfig))]


def main(config: Config, overrides: Overrides = [], explain: Explain = False) -> None:  # noqa: B006
    """Fit heads of new models; at least 200 graded queries each."""
    job = read_toml(AddModelsConfig, config, overrides)
    configure()
    added = add_models(job)
    for model, count in added.graded.items():
        print(f"  {model:28} {count:,} graded queries")
    print(f"router {added.version} in {job.artifact}")


if __name__ == "__main__":
    run_command(main)
