"""Graded outcomes → a router artifact, and what it would do for a pool at today's prices."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from moa.catalog import load_catalog
from moa.errors import ConfigError, MoaError
from moa.evaluation.evaluation import Settings
from moa.evaluation.summary import quick_look
from moa.log import configure
from moa.prices import PriceTable
from moa.router.artifact import read_artifact
from moa.router.best_constant import best_constant
from moa.toml_file import describe_keys, read_toml
from moa.training.judge import answered_by_all, judge
from moa.training.train import TrainRouterConfig, train_router


def _explain(wanted: bool) -> None:
    if wanted:
        print(describe_keys(TrainRouterConfig), end="")
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
    """Train on the `train` split, write the artifact, and say what it would do for the pool."""
    job = read_toml(TrainRouterConfig, config, overrides)
    catalog = load_catalog(job.catalog)
    missing = [name for name in job.models if name not in catalog.models]
    if missing:
        raise ConfigError(
            f"models: {job.catalog} has no {', '.join(missing)}; it has "
            f"{', '.join(sorted(catalog.models))}"
        )
    prices = PriceTable.build([catalog.models[name] for name in job.models])
    configure()
    trained = train_router(job)
    told = read_artifact(job.artifact).description.training.cross_validation
    best = best_constant(trained.data.grade, job.models)
    print(f"router {trained.version} in {job.artifact}; best constant {best.model}: {best.why}")
    for model, figures in told.items():
        print(f"  {model:28}", *(f"{name} {value:.4f}" for name, value in figures.items()))
    if job.policy is None:
        return
    if not answered_by_all(trained.data, job.models).any():
        print("no summary: no training query has a grade and tokens of every model")
        return
    judged = judge(trained.data, trained.held_out, job.models, prices, best_constant=best.model)
    print("\ntraining queries that all models have answered, scored by routers of other folds:")
    print(*quick_look("all models", judged, Settings(policy=job.policy)), sep="\n")


if __name__ == "__main__":
    try:
        typer.run(main)
    except MoaError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)
