"""Fine-tuning in one process of a group: steps, evaluations, checkpoints. It knows no Ray.

What a step draws (its queries, its dropout) follows from the seed and its number, so a run that
goes on from a checkpoint takes the steps that it would have taken. On a CPU the numbers are equal
bit by bit for equal threads; on a GPU to rounding.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from moa.errors import RunError
from moa.fine_tuning.checkpoints import Progress, load_checkpoint, save_checkpoint
from moa.fine_tuning.config import FineTuneConfig
from moa.fine_tuning.examples import Examples, micro_batches, padded, schedule
from moa.fine_tuning.graded_encoder import GradedEncoder, Predicted, load_encoder, trainable
from moa.fine_tuning.scalars import Scalars, tensorboard_of
from moa.router.backbone_spec import LanguageModelSpec

STANDARDISED_ON = 512
"""Queries of the schedule's beginning that say what embeddings look like before the first step."""

Figures = Mapping[str, float]
Report = Callable[[Figures, Path | None], None]
"""Called by all workers at each evaluation; the first one names the folder of its checkpoint."""
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a worker needs but the model's files."""

    config: FineTuneConfig
    spec: LanguageModelSpec
    """Of the base."""
    examples: Examples


class Place(NamedTuple):
    """Where a worker is."""

    rank: int
    workers: int
    device: torch.device


class Losses(NamedTuple):
    """Of n queries, shape (n,) each."""

    grade: Tensor
    """Mean log loss over the models that were graded."""
    tokens: Tensor
    """Mean squared error of log output tokens."""


def fine_tune_here(
    plan: Plan,
    folder: Path,
    place: Place,
    report: Report,
    *,
    resume: Path | None = None,
    tensorboard: str | None = None,
) -> Progress:
    """Fine-tune until the steps are over or the held-out loss no longer falls.

    Args:
        plan: the same for all workers.
        folder: of the base's files.
        place: of this process; those of a group have met (torch.distributed).
        report: see `Report`.
        resume: folder of the checkpoint to go on from.
        tensorboard: local folder of event files.
    """
    config, examples = plan.config, plan.examples
    torch.manual_seed(config.seed)
    model = build_model(plan, folder, place.device)
    parallel = _spread(model, plan, place)
    optimizer = _optimizer(model, config)
    order = schedule(
        examples,
        steps=config.optimizer.steps,
        batch=config.optimizer.batch_queries,
        exponent=config.data.source_exponent,
        seed=config.seed,
    )
    loop = _Loop(plan, place, model, parallel, optimizer, order)
    loop.standardise()
    progress = Progress(0, math.nan, math.inf, 0)
    if resume is not None:
        progress = load_checkpoint(resume, model, optimizer)
        log.info("fine_tune.resumed", step=progress.step)
    # What an earlier start wrote of later steps is written again.
    purge = None if resume is None else progress.step + 1
    writer = Scalars(tensorboard_of(tensorboard, purge) if place.rank == 0 else None)
    if resume is None:
        progress = loop.evaluate(progress, {}, report, writer)
    while progress.step < len(order) and progress.without_gain < config.optimizer.patience:
        until = min(progress.step + config.optimizer.evaluate_every, len(order))
        figures = loop.train(progress.step, until)
        there = replace(progress, step=until)
        progress = loop.evaluate(there, figures, report, writer)
    return progress


def build_model(plan: Plan, folder: Path, device: torch.device) -> GradedEncoder:
    """The base with adapters, if any, and heads, before the first step; still on the CPU.

    Args:
        device: that it will be on, which says what it can be stored in.
    """
    config = plan.config
    frozen = config.lora is not None and config.base.dtype != "float32" and low(config, device)
    dtype = torch.bfloat16 if frozen else torch.float32
    encoder = load_encoder(folder, dtype)
    if config.cluster.gradient_checkpointing:
        encoder.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={"use_reentrant": False}
        )
    encoder = trainable(encoder, config.lora)
    model = GradedEncoder(encoder, config.base, plan.examples)
    if not config.optimizer.output_tokens_weight:
        model.tokens_head.requires_grad_(False)
        model.tokens_bias.requires_grad_(False)
    return model


def low(config: FineTuneConfig, device: torch.device) -> bool:
    """Whether to compute in bfloat16: wanted, and the device has it.

    A CPU with such instructions takes MiniLM's steps 2.5 times as fast (measured).
    """
    if config.optimizer.precision == "float32":
        return False
    if torch.device(device).type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def _spread(model: GradedEncoder, plan: Plan, place: Place) -> nn.Module:
    """The model as it is called while learning."""
    if plan.config.cluster.strategy == "fsdp":
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        # Each part goes to the device as a share: the whole need not fit there.
        blocks = set(getattr(model.encoder, "_no_split_modules", None) or ())
        for module in list(model.encoder.modules()):
            if type(module).__name__ in blocks:
                fully_shard(module)
        fully_shard(model)
        register_fsdp_forward_method(model, "embed")
        return model
    model.to(place.device)
    if place.workers == 1:
        return model
    devices = [place.device] if torch.device(place.device).type == "cuda" else None
    return nn.parallel.DistributedDataParallel(model, device_ids=devices)


def _optimizer(model: nn.Module, config: FineTuneConfig) -> torch.optim.Optimizer:
    """AdamW with a rate for the encoder and one for the heads; biases do not decay."""
    options = config.optimizer
    groups: dict[tuple[float, float], list[Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            inside = name.startswith("encoder.")
            rate = options.learning_rate if inside else options.head_learning_rate
            decay = 0.0 if parameter.ndim < 2 or "bias" in name else options.weight_decay
            groups.setdefault((rate, decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr": rate, "weight_decay": decay, "peak": rate}
            for (rate, decay), parameters in groups.items()
        ]
    )


def rate_at(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate in a step, numbered from 0."""
    rising = math.ceil(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(steps - rising, 1)))


def losses(predicted: Predicted, grade: Tensor, log_tokens: Tensor) -> Losses:
    """Of each query; a missing grade adds nothing."""
    graded, counted = grade.isfinite(), log_tokens.isfinite()
    soft = functional.binary_cross_entropy_with_logits(
        predicted.log_odds, grade.nan_to_num(), reduction="none"
    )
    squared = (predicted.log_tokens - log_tokens.nan_to_num()).square()
    return Losses(
        grade=(soft * graded).sum(1) / graded.sum(1).clamp_min(1),
        tokens=(squared * counted).sum(1) / counted.sum(1).clamp_min(1),
    )


@dataclass(slots=True)
class _Loop:
    plan: Plan
    place: Place
    model: GradedEncoder
    parallel: nn.Module
    optimizer: torch.optim.Optimizer
    order: NDArray[np.int64]

    def standardise(self) -> None:
        """Have the heads standardise embeddings; all workers read the same queries."""
        rows = np.unique(self.order.ravel()[:STANDARDISED_ON])
        self.model.eval()
        found = [self._embedded(rows[portion]) for portion in self._portions(rows)]
        self.model.standardise(torch.cat(found))
        self._reshard()

    def train(self, step: int, until: int) -> dict[str, float]:
        """Take steps; what they were like."""
        started, tokens, total = time.monotonic(), 0, 0.0
        self.model.train()
        for number in range(step, until):
            total += self._step(number)
            tokens += int(self.plan.examples.lengths[self.order[number]].sum())
        seconds = time.monotonic() - started
        return {
            "training_loss": self._summed([total])[0] / (until - step),
            "tokens_per_s": tokens / seconds,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
        }

    def _step(self, number: int) -> float:
        """This worker's share of the step's loss."""
        options = self.plan.config.optimizer
        share = rate_at(number, options.steps, options.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * share
        seed = (self.plan.config.seed * 1_000_003 + number) * 1024 + self.place.rank
        torch.manual_seed(seed % (1 << 62))
        portions = list(self._mine(self.order[number]))
        total = 0.0
        for last, rows in zip([False] * (len(portions) - 1) + [True], portions, strict=True):
            with self._gathering(last):
                found = self._losses(self.parallel, rows)
                both = found.grade + options.output_tokens_weight * found.tokens
                # Gradients are averaged over workers, and the loss is over the whole batch.
                loss = both.sum() * self.place.workers / options.batch_queries
                loss.backward()
            total += float(both.sum().detach()) / options.batch_queries
        learned = [p for group in self.optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(learned, options.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total

    def evaluate(
        self, before: Progress, trained: Figures, report: Report, writer: Scalars
    ) -> Progress:
        """Measure on what is held out, write a checkpoint, tell."""
        figures = {**trained, **self._held_out()}
        loss = figures["held_out_loss"]
        if not math.isfinite(loss):
            raise RunError(
                f"the held-out loss is {loss} after step {before.step}: what was learned is lost. "
                "Begin again under another name with a lower optimizer.learning_rate"
            )
        better = loss < before.best_loss
        progress = Progress(
            step=before.step,
            first_loss=before.first_loss if before.step else loss,
            best_loss=min(loss, before.best_loss),
            without_gain=0 if better else before.without_gain + 1,
        )
        figures |= {"step": float(progress.step), "best_loss": progress.best_loss}
        figures["first_loss"] = progress.first_loss
        with tempfile.TemporaryDirectory(prefix="moa-fine-tune-") as folder:
            save_checkpoint(Path(folder), self.model, self.optimizer, progress)
            report(figures, Path(folder) if self.place.rank == 0 else None)
        if self.place.rank == 0:
            writer.write(figures, progress.step)
            log.info(
                "fine_tune.evaluated",
                steps=self.plan.config.optimizer.steps,
                seconds=round(time.monotonic() - writer.started, 1),
                **{name: round(value, 5) for name, value in figures.items() if "/" not in name},
            )
        return progress

    def _held_out(self) -> dict[str, float]:
        """Masked log loss of each source, and their mean as the sources are drawn."""
        examples = self.plan.examples
        rows = np.flatnonzero(examples.held_out)
        sums = np.zeros((len(examples.sources), 2))
        self.model.eval()
        spare = -len(rows) % self.place.workers
        counted = np.concatenate([np.ones(len(rows)), np.zeros(spare)])
        places = np.concatenate([np.arange(len(rows)), np.zeros(spare, np.int64)])
        position = np.arange(len(places))
        lengths = examples.lengths[rows[places]]
        for mine in micro_batches(
            position,
            lengths,
            tokens=self.plan.config.optimizer.micro_batch_tokens,
            worker=self.place.rank,
            workers=self.place.workers,
        ):
            queries = rows[places[mine]]
            with torch.no_grad():
                found = self._losses(self.model, queries).grade.double().cpu().numpy()
            np.add.at(sums[:, 0], examples.source[queries], found * counted[mine])
            np.add.at(sums[:, 1], examples.source[queries], counted[mine])
        self._reshard()
        summed = np.array(self._summed(sums.ravel().tolist())).reshape(sums.shape)
        there = summed[:, 1] > 0
        by_source = summed[there, 0] / summed[there, 1]
        # As sources are drawn: a mean of sources alike would hang on the three queries of one.
        weight = summed[there, 1] ** self.plan.config.data.source_exponent
        names = [name for name, one in zip(examples.sources, there, strict=True) if one]
        return {
            "held_out_loss": float(np.average(by_source, weights=weight)),
            **{f"held_out/{name}": float(v) for name, v in zip(names, by_source, strict=True)},
        }

    def _reshard(self) -> None:
        """Give back what FSDP has gathered: it waits for a backward pass, and there was none."""
        if self.plan.config.cluster.strategy == "fsdp":
            self.model.reshard()

    def _summed(self, values: Sequence[float]) -> list[float]:
        """Over all workers."""
        if self.place.workers == 1:
            return list(values)
        whole = torch.tensor(values, dtype=torch.float64, device=self.place.device)
        torch.distributed.all_reduce(whole)
        return [float(one) for one in whole.cpu()]

    def _losses(self, model: nn.Module, rows: NDArray[np.int64]) -> Losses:
        examples, device = self.plan.examples, self.place.device
        ids, counts = (torch.from_numpy(one).to(device) for one in padded(self._ids(rows)))
        source, grade, log_tokens = (
            torch.from_numpy(values[rows]).to(device)
            for values in (examples.source, examples.grade, examples.log_tokens)
        )
        with self._autocast():
            predicted = model(ids, counts, source)
        return losses(predicted, grade, log_tokens)

    def _embedded(self, rows: NDArray[np.int64]) -> Tensor:
        device = self.place.device
        ids, counts = (torch.from_numpy(one).to(device) for one in padded(self._ids(rows)))
        with torch.no_grad(), self._autocast():
            return self.model.embed(ids, counts)

    def _ids(self, rows: NDArray[np.int64]) -> list[NDArray[np.int32]]:
        return [self.plan.examples.ids[row] for row in rows.tolist()]

    def _mine(self, rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        return micro_batches(
            rows,
            self.plan.examples.lengths,
            tokens=self.plan.config.optimizer.micro_batch_tokens,
            worker=self.place.rank,
            workers=self.place.workers,
        )

    def _portions(self, rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        return micro_batches(
            np.arange(len(rows)),
            self.plan.examples.lengths[rows],
            tokens=self.plan.config.optimizer.micro_batch_tokens,
            worker=0,
            workers=1,
        )

    def _autocast(self) -> AbstractContextManager[Any]:
        if not low(self.plan.config, self.place.device):
            return nullcontext()
        kind = torch.device(self.place.device).type
        context: AbstractContextManager[Any] = torch.autocast(kind, dtype=torch.bfloat16)
        return context

    def _gathering(self, last: bool) -> AbstractContextManager[Any]:
        """Gradients of a step's portions are summed here, and over workers at the last one."""
        if last or not isinstance(self.parallel, nn.parallel.DistributedDataParallel):
            return nullcontext()
        context: AbstractContextManager[Any] = self.parallel.no_sync()
        return context
