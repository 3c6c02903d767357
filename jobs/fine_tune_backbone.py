"""Graded outcomes → a fine-tuned backbone in Hugging Face form, which `train_router` takes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from moa import log
from moa.cluster.address import LOCAL, ray_address
from moa.command_line import Config, Overrides, explaining, run_command
from moa.fine_tuning.config import FineTuneConfig
from moa.fine_tuning.run import check_cluster, fine_tune, prepare
from moa.toml_file import describe_keys, read_toml

NOISE = "State API may be temporarily unavailable|Reporting training result"
"""What Ray Train 2.60 says every second where there is no dashboard, and of each checkpoint."""


Explain = Annotated[bool, explaining(lambda: describe_keys(FineTuneConfig))]


def main(config: Config, overrides: Overrides = [], explain: Explain = False) -> None:  # noqa: B006
    """Fine-tune on the `train` split, write the model, and say what was gained."""
    job = read_toml(FineTuneConfig, config, overrides)
    log.configure()
    prepared = prepare(job)
    with started_ray(job):
        tuned = fine_tune(prepared)
    print(
        f"{tuned.output}: {job.base.name} after {tuned.steps} steps; held-out log loss "
        f"{tuned.best_loss:.4f}, and {tuned.first_loss:.4f} by source and model alone"
    )
    if not tuned.steps:
        print("no step was better than none: this is the base itself, under another name")


@contextmanager
def started_ray(job: FineTuneConfig) -> Iterator[None]:
    """A Ray of its own, or the cluster that RAY_ADDRESS names, whose autoscaler may add room."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", NOISE)
    import ray  # it reads these as it is imported

    from moa.cluster.joining import join_ray

    try:
        if (address := ray_address()) != LOCAL:
            join_ray(address)
        else:
            start_local_ray(job)
        yield
    finally:
        ray.shutdown()


def start_local_ray(job: FineTuneConfig) -> None:
    """With room for the workers, and for Ray Train's own controller.

    Raises:
        ConfigError: the machine has fewer GPUs than they need.
    """
    from moa.cluster.joining import cluster_gpus, join_ray

    need = job.cluster.workers * job.cluster.cpus_per_worker
    join_ray(LOCAL, num_cpus=max(os.cpu_count() or 1, need) + 1)
    check_cluster(job, cpus=need, gpus=cluster_gpus())


if __name__ == "__main__":
    run_command(main)
