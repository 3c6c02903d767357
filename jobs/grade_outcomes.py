"""A run's completions and their references → grades, in an outcome table that training reads."""

from __future__ import annotations

from typing import Annotated

from moa.command_line import Config, Overrides, explaining, run_command
from moa.log import configure
from moa.pipeline.grade_config import GradeOutcomesConfig
from moa.pipeline.grade_summary import agreement, summary
from moa.pipeline.grading import grade_run
from moa.toml_file import describe_keys, read_toml

Explain = Annotated[bool, explaining(lambda: describe_keys(GradeOutcomesConfig))]


def main(config: Config, overrides: Overrides = [], explain: Explain = False) -> None:  # noqa: B006
    """Grade a run, finished or not; started again before it has ended, it goes on."""
    job = read_toml(GradeOutcomesConfig, config, overrides)
    configure()
    done = grade_run(job)
    print(*summary(done.graded, usd_per_hour=job.usd_per_hour), *done.judgements, sep="\n")
    if job.recorded is not None:
        print(*agreement(done.graded, job.recorded), sep="\n")
    again = f" ({done.earlier:,} by an earlier start)" if done.earlier else ""
    print(f"{done.parts:,} parts{again}; written to {job.table} as {done.night.name}")


if __name__ == "__main__":
    run_command(main, goes_on=True)
