"""A router and held-out grades → what routing is worth, and whether the router may be shipped.

Exit code: 0 the gate was passed, 1 it was not, 2 something in the config or the data is wrong.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from moa.command_line import Config, Overrides, explaining, run_command
from moa.evaluation.config import EvaluateRouterConfig, PoolConfig
from moa.evaluation.page import render_html
from moa.evaluation.summary import evaluation_lines
from moa.evaluation.verdict import VERDICT
from moa.toml_file import describe_keys, read_toml
from moa.training.evaluate import evaluate_router


def _keys() -> str:
    pools = describe_keys(PoolConfig)
    return f"{describe_keys(EvaluateRouterConfig)}\nEach of pools:\n\n{pools}"


Explain = Annotated[bool, explaining(_keys)]


def main(config: Config, overrides: Overrides = [], explain: Explain = False) -> None:  # noqa: B006
    """Write evaluation.json, evaluation.html and verdict.json, and say what they say."""
    job = read_toml(EvaluateRouterConfig, config, overrides)
    evaluation = evaluate_router(job)
    folder = Path(job.output)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evaluation.json").write_bytes(evaluation.json())
    (folder / "evaluation.html").write_text(render_html(evaluation))
    (folder / VERDICT).write_bytes(evaluation.verdict().json_bytes())
    print(*evaluation_lines(evaluation), f"page: {folder / 'evaluation.html'}", sep="\n")
    if not evaluation.passed:
        why = (
            "the router was fitted on some of these queries"
            if evaluation.basis.taught
            else "the gate of the config was not passed"
        )
        print(f"REFUSED: {why}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    run_command(main)
