"""Graded outcomes → a router artifact, and what it would do for a pool at today's prices."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from moa.catalog import load_catalog
from moa.errors import MoaError
from moa.prices import PriceTable
from moa.router.router import Router
from moa.toml_file import read_toml
from moa.training.comparison import Point, routed, single_models
from moa.training.dataset import read_dataset, read_queries
from moa.training.train import TrainRouterConfig, train_router

Config = Annotated[str, typer.Option("--config", help="TOML file of the job")]
Overrides = Annotated[list[str], typer.Option("--set", help="key=value, any number")]


def main(config: Config, overrides: Overrides = []) -> None:  # noqa: B006
    """Train on the `train` split, write the artifact, and say what it would do for the pool."""
    job = read_toml(TrainRouterConfig, config, overrides)
    catalog = load_catalog(job.catalog)
    models = [catalog.models[name] for name in job.models]
    prices = PriceTable.build(models)
    trained = train_router(job)
    router = Router.load(job.artifact)
    best = router.best_constant(job.models)
    print(f"router {trained.version} in {job.artifact}; best constant {best.model}: {best.why}")
    for model, figures in router.training.cross_validation.items():
        print(f"  {model:28}", *(f"{name} {value:.4f}" for name, value in figures.items()))
    # A source that was weighed down is no ground to compare on: half of the models never met it.
    mine = np.array([job.source_weights.get(s, 1.0) >= 1 for s in trained.data.sources])
    data = trained.data.only(mine)
    print("\ntraining queries of full weight, each judged by heads of other folds:")
    show(single_models(data, prices))
    output_tokens = trained.expected_output_tokens[mine]
    show(routed(data, models, prices, trained.expected_grade[mine], output_tokens))
    recordings = Path(job.recordings)
    if "demo" not in read_queries(recordings).column("split").unique().to_pylist():
        return
    demo = read_dataset(recordings, job.models, split="demo")
    scores = router.score(demo.texts, job.models)
    print("\ndemo queries, on which nothing was fitted:")
    show(single_models(demo, prices))
    show(
        routed(
            demo,
            models,
            prices,
            scores.expected_grade.astype(np.float64),
            scores.expected_output_tokens.astype(np.float64),
        )
    )


def show(points: Sequence[Point]) -> None:
    """One line each."""
    for point in points:
        print(
            f"  {point.name:28} {point.queries:>6,} queries  grade {point.grade:.4f}"
            f"  ${point.cost_usd:.3f}"
        )


if __name__ == "__main__":
    try:
        typer.run(main)
    except MoaError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)
