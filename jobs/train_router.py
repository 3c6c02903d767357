"""Graded outcomes → a router artifact, and what it would do for a pool at today's prices."""

from __future__ import annotations

from typing import Annotated

from moa.catalog import load_catalog
from moa.command_line import Config, Overrides, explaining, run_command
from moa.evaluation.evaluation import Settings
from moa.evaluation.summary import quick_look
from moa.log import configure
from moa.prices import PriceTable
from moa.router.artifact import read_artifact
from moa.router.facts import RouterFacts
from moa.toml_file import describe_keys, read_toml
from moa.training.judge import answered_by_all, judge
from moa.training.train import TrainRouterConfig, train_router

Explain = Annotated[bool, explaining(lambda: describe_keys(TrainRouterConfig))]


def main(config: Config, overrides: Overrides = [], explain: Explain = False) -> None:  # noqa: B006
    """Train on the `train` split, write the artifact, and say what it would do for the pool."""
    job = read_toml(TrainRouterConfig, config, overrides)
    models = load_catalog(job.catalog).of(job.models, key="models", path=job.catalog)
    prices = PriceTable.build(models)
    configure()
    trained = train_router(job)
    facts = RouterFacts.of(read_artifact(job.artifact))
    best = facts.best_constant(job.models)
    print(f"router {trained.version} in {job.artifact}; best constant {best.model}: {best.why}")
    for model, figures in facts.training.cross_validation.items():
        print(f"  {model:28}", *(f"{name} {value:.4f}" for name, value in figures.items()))
    print("\ntraining data:", *trained.look, sep="\n")
    if job.policy is None:
        return
    if not answered_by_all(trained.data, job.models).any():
        print("no summary: no training query has a grade and tokens of every model")
        return
    judged = judge(trained.data, trained.held_out, job.models, prices, best_constant=best.model)
    print("\ntraining queries that all models have answered, scored by routers of other folds:")
    print(*quick_look("all models", judged, Settings(policy=job.policy)), sep="\n")


if __name__ == "__main__":
    run_command(main)
