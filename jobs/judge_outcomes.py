"""A run's answers → judgements by a model, which `jobs/grade_outcomes.py` makes grades of.

Exit code: 0 the judgements are written, 1 the judge does not agree with the labels, 2 something in
the config or the data is wrong.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

from moa.command_line import Config, Overrides, explaining, run_command
from moa.log import configure
from moa.pipeline.judge_config import JudgeOutcomesConfig
from moa.pipeline.judging import judge_outcomes
from moa.toml_file import describe_keys, read_toml

Explain = Annotated[bool, explaining(lambda: describe_keys(JudgeOutcomesConfig))]


def main(config: Config, overrides: Overrides = [], explain: Explain = False) -> None:  # noqa: B006
    """Judge a finished run; started again before it has ended, it goes on."""
    job = read_toml(JudgeOutcomesConfig, config, overrides)
    configure()
    judged = judge_outcomes(job, environ=os.environ, tell=print)
    if judged.refused:
        print(*(f"REFUSED: {why}" for why in judged.refused), sep="\n", file=sys.stderr)
        sys.exit(1)
    print(f"{judged.written:,} judgements written to {job.output}")


if __name__ == "__main__":
    run_command(main, goes_on=True)
