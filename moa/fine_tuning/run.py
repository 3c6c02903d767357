"""Graded outcomes → a backbone fine-tuned on them: checked, spread by Ray Train, merged, written.

The first of the two stages of training, and optional: fitting heads needs neither torch nor Ray.

An encoder that has learned from a query has also learned by heart a little of its grades. So heads
that are fitted on its embeddings of the same queries look better than they are, in cross-validation
too; the fold that was held out here (`fine_tuning.json` names it) is the one that tells the truth,
and the place to calibrate on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import structlog

from moa.errors import ConfigError, RunError
from moa.fine_tuning.config import BaseConfig, FineTuneConfig
from moa.fine_tuning.examples import Examples, read_examples
from moa.router.backbone_spec import LanguageModelSpec
from moa.router.model_folder import CONFIG, WEIGHTS, describe_model, read_model_config, window
from moa.router.prompt_tokens import TOKENIZER, PromptTokens
from moa.storage.object_store import Folder

if TYPE_CHECKING:
    from moa.fine_tuning.loop import Plan

PACKAGES = ("torch", "transformers", "peft", "tensorboard", "pandas")
"""Of the extra `fine-tune`; looked for before any of them is imported, which takes seconds."""
IDENTITY = "run.json"
log = structlog.get_logger()


class FineTuned(NamedTuple):
    """A model that has been written."""

    output: str
    spec: LanguageModelSpec
    steps: int
    """Until the checkpoint that was taken."""
    first_loss: float
    """Held-out log loss before the first step: by source and model alone."""
    best_loss: float
    """That of the checkpoint that was taken."""


def need_extra() -> None:
    """Check that what fine-tuning needs is installed.

    Raises:
        ConfigError: it is not.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"fine-tuning needs {', '.join(missing)}, not installed here: install the extra "
            "fine-tune (`pip install -e '.[fine-tune]'`), or on a machine without a GPU `make cpu`"
        )


class Prepared(NamedTuple):
    """A fine-tuning that has been checked, and may start."""

    plan: Plan
    base: Path
    """Folder of the model to begin with."""


def prepare(config: FineTuneConfig) -> Prepared:
    """Find the model, read the data, check all that can be checked before a machine is claimed.

    Raises:
        ConfigError: something in the config does not fit the model or the data.
        RunError: the run's name is that of another.
    """
    need_extra()
    from moa.fine_tuning.graded_encoder import quiet
    from moa.fine_tuning.loop import Plan
    from moa.fine_tuning.tuned_model import check_output

    quiet()
    check_output(config.output)
    base = find_base(config.base)
    examples = read_examples(config.recordings, config.data, _tokens(config.base, base))
    spec = _described(config.base, base)
    check_model(config, base)
    plan = Plan(config, spec, examples)
    _begin(plan)
    _tell(examples)
    return Prepared(plan, base)


def fine_tune(prepared: Prepared) -> FineTuned:
    """Fine-tune and write the model. Ray has been started.

    Started again under the same name, a run goes on from its last checkpoint.

    Raises:
        RunError: the training failed: started again, it goes on.
    """
    from moa.fine_tuning.tuned_model import write_model
    from moa.fine_tuning.workers import opened, train

    plan, base = prepared
    trained = train(plan, base)
    figures = trained.figures
    with opened(trained) as folder:
        spec = write_model(plan, base, folder, plan.config.output, _card(plan, figures))
    return FineTuned(
        output=plan.config.output,
        spec=spec,
        steps=int(figures["step"]),
        first_loss=figures["first_loss"],
        best_loss=figures["held_out_loss"],
    )


def find_base(base: BaseConfig) -> Path:
    """The local folder of the model to begin with; from the hub only if it may be fetched.

    Raises:
        ConfigError: it is nowhere.
    """
    named = base.source.folder or base.name
    if "://" in named:
        raise ConfigError(
            f"base: {named} is in a bucket. Copy the model to a folder that all workers see, and "
            "name that (base.source.folder)"
        )
    if base.source.folder is not None or (Path(named) / CONFIG).is_file():
        return Path(named)
    from huggingface_hub import snapshot_download

    kinds = [WEIGHTS, "*.json", "*.txt"]
    try:
        return Path(
            snapshot_download(
                base.name,
                revision=base.revision,
                local_files_only=not base.source.download,
                allow_patterns=kinds,
            )
        )
    except Exception as error:  # its own, the network's, the disk's: each means "not to be had"
        raise ConfigError(
            f"base.name = {base.name!r}: no folder has that name, and the Hugging Face cache has "
            f"no such model ({type(error).__name__}). Name its folder (base.source.folder), or "
            "allow a download (base.source.download = true)"
        ) from None


def check_model(config: FineTuneConfig, base: Path) -> None:
    """Check that the model can be read and changed as the config says.

    Raises:
        ConfigError: it cannot.
    """
    from moa.fine_tuning.graded_encoder import check_lora, outline

    name, most = config.base.name, window(base)
    if most is not None and config.base.max_tokens > most:
        raise ConfigError(
            f"base.max_tokens = {config.base.max_tokens}: the window of {name} is {most} tokens. "
            f"Take at most {most}"
        )
    causal = any("Causal" in one for one in read_model_config(base).get("architectures") or [])
    if config.base.pooling == "cls" and causal:
        raise ConfigError(
            f"base.pooling = 'cls': {name} is a causal model, whose first token knows nothing of "
            "the others. Take last or mean"
        )
    if config.lora is not None:
        check_lora(outline(base), config.lora, name=name)


def check_cluster(config: FineTuneConfig, *, cpus: float, gpus: float) -> None:
    """Check that the workers find room on a machine or cluster that does not grow.

    Raises:
        ConfigError: they would wait for ever.
    """
    wanted = config.cluster
    for name, each, there in (
        ("cpus_per_worker", wanted.cpus_per_worker, cpus),
        ("gpus_per_worker", wanted.gpus_per_worker, gpus),
    ):
        if wanted.workers * each > there:
            raise ConfigError(
                f"cluster.workers times cluster.{name} is {wanted.workers * each}, and there are "
                f"{there:g}: lower them, or name a cluster by RAY_ADDRESS"
            )


def _tokens(base: BaseConfig, folder: Path) -> PromptTokens:
    if not (folder / TOKENIZER).is_file():
        raise ConfigError(f"{folder} has no {TOKENIZER}: save the model's fast tokenizer there")
    return PromptTokens(folder / TOKENIZER, template=base.template, max_tokens=base.max_tokens)


def _described(base: BaseConfig, folder: Path) -> LanguageModelSpec:
    return describe_model(
        folder,
        name=base.name,
        revision=base.revision,
        pooling=base.pooling,
        max_tokens=base.max_tokens,
        dtype=base.dtype,
        template=base.template,
        normalized=base.normalized,
    )


def _begin(plan: Plan) -> None:
    """The first start of a run says what it is; a later one must be the same.

    Raises:
        ConfigError: the storage cannot be used.
        RunError: it is another.
    """
    folder = Folder(plan.config.run_url)
    folder.check()
    told = plan.config.model_dump(mode="json", exclude={"cluster", "output", "tensorboard"})
    told["base"].pop("source")
    told["weights_sha256"] = plan.spec.weights_sha256
    told["examples_sha256"] = plan.examples.digest()
    if folder.create(IDENTITY, json.dumps(told, indent=2).encode()):
        return
    before = json.loads(folder.read(IDENTITY) or b"{}")
    differs = sorted(key for key in told.keys() | before.keys() if told.get(key) != before.get(key))
    if differs:
        raise RunError(
            f"{folder.url} is a run with another {', '.join(differs)}. Give this one another name, "
            "or put back what it was"
        )


def _tell(examples: Examples) -> None:
    log.info(
        "fine_tune.read",
        queries=len(examples.ids),
        held_out=int(examples.held_out.sum()),
        cut=examples.cut,
        models=len(examples.models),
        grades=int(np.isfinite(examples.grade).sum()),
        mean_tokens=round(float(examples.lengths.mean()), 1),
    )


def _card(plan: Plan, figures: Mapping[str, float]) -> dict[str, Any]:
    """What the model was made from, and how good it was on what it did not learn from."""
    examples, data = plan.examples, plan.config.data
    by_source = {
        name: {
            "learned_from": int(((examples.source == n) & ~examples.held_out).sum()),
            "held_out": int(((examples.source == n) & examples.held_out).sum()),
            "held_out_loss": figures.get(f"held_out/{name}"),
        }
        for n, name in enumerate(examples.sources)
    }
    return {
        "base": plan.spec.model_dump(mode="json"),
        "config": plan.config.model_dump(mode="json"),
        "held_out": {"folds": data.folds, "fold": data.held_out_fold},
        "examples_sha256": examples.digest(),
        "models": list(examples.models),
        "sources": by_source,
        "step": int(figures["step"]),
        "held_out_loss": figures["held_out_loss"],
        "held_out_loss_before": figures["first_loss"],
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "ray")},
    }
