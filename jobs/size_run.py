"""A job and how many queries → how long it takes, what it costs, what binds, on what machines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import orjson
import typer

from moa.command_line import Config, Overrides, explaining, run_command
from moa.errors import ConfigError
from moa.log import configure
from moa.pipeline.sized import size_run
from moa.pipeline.sizing_config import SizeRunConfig
from moa.reports.sizing import document, tables
from moa.toml_file import describe_keys, read_toml

Explain = Annotated[bool, explaining(lambda: describe_keys(SizeRunConfig))]
Json = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write all figures there, too")
]


def main(
    config: Config,
    overrides: Overrides = [],  # noqa: B006
    json: Json = None,
    explain: Explain = False,
) -> None:
    """Reckon a run before it is bought: nobody is called, nothing is started."""
    asked = read_toml(SizeRunConfig, config, overrides)
    configure()
    sizing = size_run(asked)
    if json is not None:
        _write(json, orjson.dumps(document(sizing), option=orjson.OPT_INDENT_2))
    print(f"Prices of {sizing.prices_of}; who is given what: {sizing.source}.", "", sep="\n")
    print(*tables(sizing), sep="\n")


def _write(path: Path, text: bytes) -> None:
    try:
        path.write_bytes(text)
    except OSError as error:
        raise ConfigError(
            f"--json {path}: {error.strerror}: name a file that may be written"
        ) from None


if __name__ == "__main__":
    run_command(main)
