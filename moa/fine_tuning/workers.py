"""A fine-tuning spread over processes by Ray Train, which keeps its checkpoints and its promise to
go on: a worker that dies is replaced, and a job that dies is started again under its name."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import ray
import torch

import moa.log
from moa.errors import RunError
from moa.fine_tuning.config import ClusterConfig, FineTuneConfig
from moa.fine_tuning.graded_encoder import quiet
from moa.fine_tuning.loop import Place, Plan, fine_tune_here
from moa.router.model_files import find_model
from moa.router.model_folder import CONFIG
from moa.storage.object_store import Folder, filesystem_of

SCORE = "held_out_loss"
"""By which a checkpoint is the best one; less is better."""


class Trained(NamedTuple):
    """The best checkpoint of a run."""

    checkpoint: Any
    """Ray's; `opened` gives its folder."""
    figures: Mapping[str, float]
    """That were reported with it."""


def train(plan: Plan, base: Path) -> Trained:
    """Run the workers to their end, or on from where an earlier start was.

    Args:
        plan: of the fine-tuning.
        base: the model's folder, where this process sees it; workers look there first, then where
            the config says.

    Raises:
        RunError: a worker failed more often than the config allows.
    """
    # Ray has two Train APIs under one name, and its type information is the older one's.
    train: Any = importlib.import_module("ray.train")
    config = plan.config
    filesystem, root = filesystem_of(config.storage)
    trainer = importlib.import_module("ray.train.torch").TorchTrainer(
        _work,
        # Ray Train puts its workers into a folder of its own: relative paths end here.
        train_loop_config={
            "plan": ray.put(plan),
            "folder": str(base.absolute()),
            "tensorboard": tensorboard_folder(config),
        },
        scaling_config=_scaling(config.cluster),
        run_config=train.RunConfig(
            name=config.name,
            storage_path=root,
            storage_filesystem=filesystem,
            failure_config=train.FailureConfig(max_failures=config.cluster.max_failures),
            # The latest stays beside the best one: a run goes on from it.
            checkpoint_config=train.CheckpointConfig(
                num_to_keep=1, checkpoint_score_attribute=SCORE, checkpoint_score_order="min"
            ),
            logging_config=train.LoggingConfig(log_level="WARNING"),
        ),
    )
    try:
        result = trainer.fit()
    except (train.TrainingFailedError, train.ControllerError) as error:
        raise RunError(
            f"the fine-tuning {config.name} failed: {str(error).strip().splitlines()[-1]}. When "
            "that is mended, start it again: it goes on from its last checkpoint"
        ) from error
    found = min(result.best_checkpoints or (), key=lambda one: one[1][SCORE], default=None)
    if found is None:
        raise RunError(f"the fine-tuning {config.name} has left no checkpoint: start it again")
    return Trained(*found)


@contextmanager
def opened(trained: Trained) -> Iterator[Path]:
    """The folder of a checkpoint, on this machine."""
    with trained.checkpoint.as_directory() as folder:
        yield Path(folder)


def _scaling(cluster: ClusterConfig) -> Any:  # noqa: ANN401  # see `train`
    each = {"CPU": float(cluster.cpus_per_worker), "GPU": float(cluster.gpus_per_worker)}
    scaling: Any = importlib.import_module("ray.train").ScalingConfig
    return scaling(
        num_workers=cluster.workers,
        use_gpu=cluster.gpus_per_worker > 0,
        resources_per_worker={name: count for name, count in each.items() if count},
    )


def _work(told: dict[str, Any]) -> None:
    """What each worker runs."""
    train: Any = importlib.import_module("ray.train")
    moa.log.configure("json")
    quiet()
    plan: Plan = ray.get(told["plan"])
    torch.set_num_threads(plan.config.cluster.cpus_per_worker)
    source = plan.config.base.source
    if (Path(told["folder"]) / CONFIG).is_file():
        source = source.model_copy(update={"folder": told["folder"]})
    folder = find_model(plan.spec, source, artifact=plan.config.run_url)
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
    context = train.get_context()
    device = importlib.import_module("ray.train.torch").get_device()
    place = Place(context.get_world_rank(), context.get_world_size(), device)

    def report(figures: Mapping[str, float], checkpoint: Path | None) -> None:
        whole = None if checkpoint is None else train.Checkpoint.from_directory(checkpoint)
        train.report(dict(figures), checkpoint=whole)

    last = train.get_checkpoint()
    with nullcontext() if last is None else last.as_directory() as resume:
        fine_tune_here(
            plan,
            folder,
            place,
            report,
            resume=None if resume is None else Path(resume),
            tensorboard=told["tensorboard"],
        )


def tensorboard_folder(config: FineTuneConfig) -> str | None:
    """Where event files go."""
    if config.tensorboard is not None:
        return str(Path(config.tensorboard).absolute())
    local = Folder(config.run_url).local
    return None if local is None else str(local / "tensorboard")
