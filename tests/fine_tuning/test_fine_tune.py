"""Fine-tuning a tiny model that is made here: the loop in this process, the job by Ray Train."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash

from moa.errors import ConfigError, RunError
from moa.fine_tuning.config import FineTuneConfig
from moa.fine_tuning.examples import Examples, micro_batches, read_examples, schedule
from moa.router.model_folder import describe_model, verify_model
from moa.router.prompt_tokens import PromptTokens
from moa.schema import GRADED_OUTCOMES
from moa.storage.object_store import Folder
from moa.toml_file import check
from tests.router.language_models import QUIET, make_qwen, minilm, need

need("torch", "transformers", "peft", "tensorboard", "pandas")
pytestmark = [pytest.mark.filterwarnings(line) for line in QUIET]

import torch  # noqa: E402  # what need() has just looked for

from moa.fine_tuning import run as job  # noqa: E402
from moa.fine_tuning.graded_encoder import Predicted, outline, pool, trainable  # noqa: E402
from moa.fine_tuning.loop import (  # noqa: E402
    Place,
    Plan,
    build_model,
    fine_tune_here,
    losses,
    rate_at,
)
from moa.fine_tuning.memory import Shape, flop_per_token, memory, shape_of  # noqa: E402
from moa.fine_tuning.tuned_model import CARD, write_model  # noqa: E402

ROOT = Path(__file__).parents[2]
HARD, EASY = "How many letters are in the word strawberry", "Answer the question. Explain why"
QUERIES = 120
MODELS = ("made/large", "made/small", "made/rare")
CPU = "cpu"


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen(tmp_path_factory.mktemp("models") / "qwen")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sources; what is asked says what is hard. The third model was graded three times."""
    folder = tmp_path_factory.mktemp("recordings")
    rows = range(QUERIES)
    hard = [row % 2 == 0 for row in rows]
    prompts = [f"{HARD if one else EASY} {row}?" for row, one in zip(rows, hard, strict=True)]
    queries = {
        "query_id": [f"q{row:04d}" for row in rows],
        "prompt": prompts,
        "source": ["letters" if row % 3 else "words" for row in rows],
        "split": ["train"] * QUERIES,
    }
    pq.write_table(pa.table(queries), folder / "queries.parquet")
    outcomes = []
    for row in rows:
        grades = (1.0 if row % 7 else 0.5, 0.0 if hard[row] else 1.0, 1.0 if row < 3 else None)
        for model, grade in zip(MODELS, grades, strict=True):
            if grade is not None:
                outcomes.append(
                    {
                        "query_id": f"q{row:04d}",
                        "model": model,
                        "grade": grade,
                        "input_tokens": 10,
                        "output_tokens": 200 if hard[row] else 20,
                        "grader": "made",
                    }
                )
    table = pa.Table.from_pylist(outcomes, GRADED_OUTCOMES)
    pq.write_table(table, folder / "graded_outcomes.parquet")
    return folder


Make = Callable[..., FineTuneConfig]


@pytest.fixture
def config(qwen: Path, recordings: Path, tmp_path: Path) -> Make:
    """A config; what is given goes before what is here, `None` takes a section away."""

    def make(**changes: object) -> FineTuneConfig:
        document: dict[str, Any] = {
            "recordings": str(recordings),
            "name": "tiny",
            "storage": str(tmp_path / "storage"),
            "output": str(tmp_path / "out" / "tuned"),
            "base": {
                "name": str(qwen),
                "pooling": "last",
                "max_tokens": 32,
                "dtype": "float32",
                "template": "<|im_start|>{query}<|im_end|>",
            },
            "lora": {"rank": 4, "targets": ["q_proj", "v_proj", "down_proj"]},
            "data": {"least_grades": 50, "folds": 5},
            "optimizer": {
                "steps": 30,
                "batch_queries": 16,
                "micro_batch_tokens": 256,
                "learning_rate": 5e-3,
                "head_learning_rate": 1e-2,
                "evaluate_every": 10,
                "precision": "float32",
            },
        }
        for key, value in changes.items():
            if isinstance(value, dict):
                document[key] = {**document.get(key, {}), **value}
            elif value is None:
                document.pop(key, None)
            else:
                document[key] = value
        return check(FineTuneConfig, document, where="the test")

    return make


def planned(config: FineTuneConfig) -> Plan:
    folder = Path(config.base.name)
    base = config.base
    tokens = PromptTokens(
        folder / "tokenizer.json", template=base.template, max_tokens=base.max_tokens
    )
    spec = describe_model(
        folder,
        name=base.name,
        pooling=base.pooling,
        max_tokens=base.max_tokens,
        dtype=base.dtype,
        template=base.template,
    )
    return Plan(config, spec, read_examples(Path(config.recordings), config.data, tokens))


class Kept:
    """What a run reports, its checkpoints copied."""

    def __init__(self, folder: Path) -> None:
        self.figures: list[dict[str, float]] = []
        self.folder = folder

    def __call__(self, figures: Mapping[str, float], checkpoint: Path | None) -> None:
        assert checkpoint is not None
        self.figures.append(dict(figures))
        target = self.at(int(figures["step"]))
        target.mkdir(parents=True)
        for path in checkpoint.iterdir():
            (target / path.name).write_bytes(path.read_bytes())

    def at(self, step: int) -> Path:
        return self.folder / f"{step:05d}"

    def losses(self) -> dict[int, float]:
        return {int(one["step"]): one["held_out_loss"] for one in self.figures}


def run(config: FineTuneConfig, kept: Kept, *, resume: Path | None = None) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        folder = Path(config.base.name)
        fine_tune_here(planned(config), folder, Place(0, 1, CPU), kept, resume=resume)
    finally:
        torch.set_num_threads(threads)


def tensors(plan: Plan, rows: list[int]) -> tuple[Any, Any]:
    from moa.fine_tuning.examples import padded

    ids, counts = padded([plan.examples.ids[row] for row in rows])
    return torch.from_numpy(ids), torch.from_numpy(counts)


# What is learned from


def test_models_with_few_grades_are_left_out_and_the_held_out_fold_is_the_datasets(
    config: Make, recordings: Path
) -> None:
    examples = planned(config()).examples

    assert examples.models == ("made/large", "made/small")
    assert examples.sources == ("letters", "words")
    assert 0 < examples.held_out.sum() < QUERIES / 2


def test_a_query_is_read_as_the_router_will_read_it(config: Make, qwen: Path) -> None:
    plan = planned(config(base={"max_tokens": 24}))
    tokens = PromptTokens(
        qwen / "tokenizer.json", template=plan.spec.template, max_tokens=plan.spec.max_tokens
    )
    texts = pq.read_table(f"{plan.config.recordings}/queries.parquet")["prompt"].to_pylist()

    assert [list(ids) for ids in plan.examples.ids] == tokens(texts).ids
    assert plan.examples.cut == tokens(texts).cut.sum()


def test_the_prior_is_the_share_of_full_grades_drawn_towards_the_models_own() -> None:
    nan = math.nan
    examples = made_examples(
        grade=[[1, nan], [1, nan], [0, nan], [0.5, 1], [0, 0]],
        source=[0, 0, 0, 1, 1],
        held_out=[False, False, False, False, True],
    )

    share = 1 / (1 + np.exp(-examples.prior_log_odds()))

    # The first: 2.5 of 4 by all, (2 + 5 * 0.625) / (3 + 5) in source 0, (0.5 + 3.125) / 6 in 1.
    np.testing.assert_allclose(share[:, 0], [5.125 / 8, 3.625 / 6], rtol=1e-5)
    # The second: its only grade is 1; nothing is certain.
    np.testing.assert_allclose(share[:, 1], [0.99, 0.99], rtol=1e-5)


def test_a_source_is_used_up_before_one_of_its_queries_comes_again() -> None:
    source = np.repeat([0, 1, 2], [60, 12, 3])
    examples = made_examples(
        grade=[[1.0]] * 75, source=source.tolist(), held_out=[False] * 74 + [True]
    )

    order = schedule(examples, steps=50, batch=8, exponent=0.0, seed=3)

    assert (order == schedule(examples, steps=50, batch=8, exponent=0.0, seed=3)).all()
    drawn = np.bincount(source[order.ravel()], minlength=3) / order.size
    np.testing.assert_allclose(drawn, 1 / 3, atol=0.08)
    for number in range(3):
        mine = order.ravel()[source[order.ravel()] == number]
        assert (
            np.ptp(np.bincount(mine, minlength=75)[(source == number) & (np.arange(75) < 74)]) <= 1
        )
    assert 74 not in order


def test_with_exponent_one_sources_are_drawn_as_they_are() -> None:
    source = np.repeat([0, 1], [80, 20])
    examples = made_examples(grade=[[1.0]] * 100, source=source.tolist(), held_out=[False] * 100)

    order = schedule(examples, steps=200, batch=10, exponent=1.0, seed=0)

    assert (source[order.ravel()] == 0).mean() == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_every_worker_has_as_many_portions_and_all_queries_are_in_one(workers: int) -> None:
    random = np.random.default_rng(5)
    lengths, rows = random.integers(3, 100, 64), random.permutation(64)[:32]

    shares = [
        list(micro_batches(rows, lengths, tokens=256, worker=worker, workers=workers))
        for worker in range(workers)
    ]

    assert len({tuple(len(one) for one in share) for share in shares}) == 1
    assert sorted(np.concatenate([np.concatenate(share) for share in shares])) == sorted(rows)
    assert all(len(one) * lengths[one].max() <= 256 for share in shares for one in share)


def made_examples(*, grade: list[list[float]], source: list[int], held_out: list[bool]) -> Examples:
    grades = np.array(grade, np.float32)
    return Examples(
        ids=tuple(np.arange(3, dtype=np.int32) for _ in grades),
        grade=grades,
        log_tokens=np.ones_like(grades),
        source=np.array(source, np.int64),
        held_out=np.array(held_out),
        models=tuple(f"m{n}" for n in range(grades.shape[1])),
        sources=tuple(f"s{n}" for n in range(max(source) + 1)),
        cut=0,
    )


# The objective


def test_a_missing_grade_adds_no_loss_and_a_fraction_is_a_soft_target() -> None:
    predicted = Predicted(torch.tensor([[0.0, 9.0], [2.0, -2.0]]), torch.zeros(2, 2))
    grade = torch.tensor([[1.0, math.nan], [0.25, 1.0]])

    found = losses(predicted, grade, torch.tensor([[2.0, math.nan], [math.nan, math.nan]]))

    yes, no = 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(2))
    soft = -0.25 * math.log(yes) - 0.75 * math.log(no)
    assert found.grade.tolist() == pytest.approx([math.log(2), (soft - math.log(no)) / 2])
    assert found.tokens.tolist() == pytest.approx([4.0, 0.0])


@pytest.mark.parametrize("pooling", ["last", "mean", "cls"])
def test_padding_is_in_no_embedding(pooling: str) -> None:
    states = torch.arange(12.0).reshape(1, 4, 3)
    counts = torch.tensor([[1, 1, 1, 0]])

    found = pool(states, counts, pooling)

    assert torch.equal(found, pool(states[:, :3], counts[:, :3], pooling))


def test_the_rate_rises_then_falls_to_nothing() -> None:
    rates = [rate_at(step, 100, 0.1) for step in range(100)]

    assert rates[:10] == pytest.approx([0.1 * (n + 1) for n in range(10)])
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[-1] < 0.001


def test_at_the_first_evaluation_nothing_but_source_and_model_is_known(
    config: Make, tmp_path: Path
) -> None:
    plan, kept = planned(config(optimizer={"steps": 1})), Kept(tmp_path / "kept")
    run(plan.config, kept)
    examples = plan.examples
    prior = 1 / (1 + np.exp(-examples.prior_log_odds()[examples.source]))
    loss = -(examples.grade * np.log(prior) + (1 - examples.grade) * np.log(1 - prior)).mean(1)
    held_out = [loss[examples.held_out & (examples.source == n)] for n in (0, 1)]
    # Sources count as they are drawn: by the square roots of their queries.
    weights = [len(one) ** 0.5 for one in held_out]
    wanted = np.average([one.mean() for one in held_out], weights=weights)

    assert kept.losses()[0] == pytest.approx(wanted, rel=1e-5)


# The loop


def test_the_held_out_loss_falls_and_an_equal_seed_gives_equal_losses(
    config: Make, tmp_path: Path
) -> None:
    first, second, third = (Kept(tmp_path / name) for name in ("first", "second", "third"))
    run(config(), first)
    run(config(), second)
    run(config(seed=1), third)

    assert first.losses()[30] < 0.6 * first.losses()[0]
    assert first.losses() == second.losses()
    assert first.losses()[30] != third.losses()[30]


def test_a_run_that_goes_on_takes_the_steps_that_it_would_have_taken(
    config: Make, tmp_path: Path
) -> None:
    whole, rest = Kept(tmp_path / "whole"), Kept(tmp_path / "rest")
    run(config(lora={"dropout": 0.2}), whole)

    run(config(lora={"dropout": 0.2}), rest, resume=whole.at(10))

    assert rest.losses() == {step: whole.losses()[step] for step in (20, 30)}


def test_it_stops_when_the_held_out_loss_no_longer_falls(config: Make, tmp_path: Path) -> None:
    kept = Kept(tmp_path / "kept")

    run(config(optimizer={"steps": 1000, "learning_rate": 1.0, "patience": 2}), kept)

    best = min(kept.losses(), key=lambda step: kept.losses()[step])
    assert max(kept.losses()) == best + 20


def test_a_loss_that_is_no_number_ends_it_and_leaves_no_checkpoint(
    config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, taken = Kept(tmp_path / "kept"), torch.optim.AdamW.step

    # A real step, and then what a rate that is too high does in the end, but at a known step.
    def diverging(self: torch.optim.AdamW, **named: object) -> None:
        taken(self, **named)
        with torch.no_grad():
            self.param_groups[0]["params"][0].fill_(math.inf)

    # No data diverges at a step that is known beforehand: so a weight is made infinite there.
    monkeypatch.setattr(torch.optim.AdamW, "step", diverging)

    with pytest.raises(RunError, match=r"held-out loss is nan after step 10: .*learning_rate"):
        run(config(), kept)

    assert list(kept.losses()) == [0]


def test_all_weights_can_be_learned_with_log_output_tokens(config: Make, tmp_path: Path) -> None:
    kept = Kept(tmp_path / "kept")

    run(config(lora=None, optimizer={"learning_rate": 1e-3, "output_tokens_weight": 0.1}), kept)

    assert kept.losses()[30] < 0.6 * kept.losses()[0]


def test_computing_activations_twice_changes_no_number(config: Make, tmp_path: Path) -> None:
    once, twice = Kept(tmp_path / "once"), Kept(tmp_path / "twice")

    run(config(optimizer={"steps": 10}), once)
    run(config(optimizer={"steps": 10}, cluster={"gradient_checkpointing": True}), twice)

    assert twice.losses()[10] == pytest.approx(once.losses()[10], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_workers_learn_what_one_does(config: Make, tmp_path: Path, strategy: str) -> None:
    alone = Kept(tmp_path / "alone")
    run(config(lora={"dropout": 0.0}), alone)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = config(lora={"dropout": 0.0}, cluster={"workers": 2, "strategy": strategy})
    processes = [
        multiprocessing.get_context("spawn").Process(
            target=work, args=(both.model_dump(), rank, port, str(tmp_path))
        )
        for rank in range(2)
    ]

    for process in processes:
        process.start()
    for process in processes:
        process.join(120)

    assert [process.exitcode for process in processes] == [0, 0]
    found = json.loads((tmp_path / "losses.json").read_text())
    assert {int(k): v for k, v in found.items()} == pytest.approx(alone.losses(), rel=1e-3)


def work(document: dict[str, Any], rank: int, port: int, folder: str) -> None:
    """One of two workers; it goes on from its own checkpoint in the middle."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
    plan = planned(check(FineTuneConfig, document, where="the test"))
    model, place = Path(plan.config.base.name), Place(rank, 2, CPU)
    kept: Any = Kept(Path(folder) / "both") if rank == 0 else lambda figures, checkpoint: None
    fine_tune_here(plan, model, place, kept)
    if rank == 0:
        again = Kept(Path(folder) / "again")
        kept_losses = dict(kept.losses())
    torch.distributed.barrier()
    other: Any = again if rank == 0 else lambda figures, checkpoint: None
    fine_tune_here(plan, model, place, other, resume=Path(folder) / "both" / "00020")
    if rank == 0:
        assert again.losses()[30] == pytest.approx(kept_losses[30], rel=1e-5)
        (Path(folder) / "losses.json").write_text(json.dumps(kept_losses))
    torch.distributed.destroy_process_group()


# What comes out


@pytest.mark.parametrize("lora", [{"rank": 4}, None])
def test_the_merged_model_gives_the_embeddings_of_the_one_that_learned(
    config: Make, tmp_path: Path, lora: dict[str, int] | None
) -> None:
    from moa.fine_tuning.checkpoints import load_weights

    kept = Kept(tmp_path / "kept")
    plan = planned(config(lora=lora, optimizer={"steps": 10, "learning_rate": 2e-3}))
    run(plan.config, kept)
    base, output = Path(plan.config.base.name), Path(plan.config.output)
    output.parent.mkdir()
    learned = build_model(plan, base, CPU)
    load_weights(kept.at(10), learned)
    ids, counts = tensors(plan, [0, 1, 2, 3])

    spec = write_model(plan, base, kept.at(10), str(output), {"made": "here"})

    with torch.no_grad():
        wanted = learned.eval().embed(ids, counts)
        untouched = build_model(plan, base, CPU).eval().embed(ids, counts)
        found = by_transformers(output, ids, counts)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    assert (wanted - untouched).abs().max() > 1e-3
    verify_model(spec, output)
    assert (output / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    assert json.loads((output / CARD).read_text()) == {"made": "here"}


def by_transformers(folder: Path, ids: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder).eval()
    states = model(input_ids=ids, attention_mask=counts).last_hidden_state
    found = states[torch.arange(len(ids)), counts.sum(1) - 1]
    return torch.nn.functional.normalize(found, dim=-1)


def test_the_model_comes_to_a_bucket_with_its_card_last(
    config: Make, tmp_path: Path, object_store: str
) -> None:
    cache = {"source": {"cache": str(tmp_path / "cache")}}
    plan = planned(config(output=f"{object_store}/tuned", base=cache, optimizer={"steps": 1}))
    kept = Kept(tmp_path / "kept")
    run(plan.config, kept)

    write_model(plan, Path(plan.config.base.name), kept.at(0), plan.config.output, {"a": 1})

    names = Folder(plan.config.output).names("")
    assert {"config.json", "model.safetensors", "tokenizer.json", CARD} <= set(names)
    assert not list((tmp_path / "cache").iterdir())
    with pytest.raises(ConfigError, match="holds a fine-tuned model already"):
        job.prepare(plan.config)


@pytest.mark.slow
@pytest.mark.usefixtures("_environment")
def test_vllm_reads_the_merged_model(config: Make, tmp_path: Path) -> None:
    need_here("vllm")
    from tests.router.language_models import open_model

    kept = Kept(tmp_path / "kept")
    plan = planned(config(optimizer={"steps": 10}))
    run(plan.config, kept)
    base, output = Path(plan.config.base.name), Path(plan.config.output)
    output.parent.mkdir()
    write_model(plan, base, kept.at(10), str(output), {})
    texts = pq.read_table(f"{plan.config.recordings}/queries.parquet")["prompt"].to_pylist()[:3]

    spec = plan.config.base
    template, most = spec.template, spec.max_tokens
    _, backbone = open_model(output, pooling="last", template=template, max_tokens=most)

    with torch.no_grad():
        wanted = by_transformers(output, *tensors(plan, [0, 1, 2]))
    np.testing.assert_allclose(backbone.embed(texts), wanted.numpy(), atol=1e-5)


@pytest.fixture
def _environment() -> Iterator[None]:
    """Opening an engine sets variables for its process, which here is everybody's."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def need_here(package: str) -> None:
    """As `need`, of one test."""
    if find_spec(package) is None and not os.environ.get("REQUIRE_VLLM"):
        pytest.skip(f"{package} not installed (`make cpu`)")


# What is refused


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lora": {"targets": ["query"]}}, "no linear layer 'query'; it has down_proj"),
        ({"lora": {"rank": 64}}, "lora.rank = 64: the smallest layer .* is 32 wide"),
        ({"base": {"max_tokens": 1000}}, "base.max_tokens = 1000: the window of .* is 512"),
        ({"base": {"pooling": "cls"}}, "is a causal model"),
        ({"base": {"name": "no/such"}}, "no folder has that name, and the Hugging Face cache"),
        ({"base": {"name": "s3://a/b"}}, "is in a bucket"),
        ({"base": {"source": {"folder": "/nowhere"}}}, "/nowhere has no tokenizer.json"),
        ({"data": {"least_grades": 999}}, "the most that one has is 120"),
        ({"recordings": "/nowhere"}, "queries.parquet is not there"),
    ],
)
def test_what_does_not_fit_is_told_with_value_limit_and_remedy(
    config: Make, changes: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if "max_tokens" in changes.get("base", {}):
        changes = {**changes, "optimizer": {"micro_batch_tokens": 4096}}

    with pytest.raises(ConfigError, match=said):
        job.prepare(config(**changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": {"held_out_fold": 5}}, "held_out_fold should be below folds, which is 5"),
        ({"cluster": {"workers": 3}}, "batch_queries = 16 should be a multiple of"),
        ({"optimizer": {"micro_batch_tokens": 16}}, "one query must fit"),
        ({"base": {"template": "none"}}, "should have {query} exactly once"),
        ({"name": "a/b"}, "name = 'a/b'"),
    ],
)
def test_a_config_that_cannot_be_is_refused(
    config: Make, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        config(**changes)


def test_a_fold_without_a_query_is_told(config: Make) -> None:
    examples = planned(config()).examples
    texts = pq.read_table(f"{config().recordings}/queries.parquet")["prompt"].to_pylist()
    groups = (xxhash.xxh3_64_hexdigest(" ".join(t.lower().split()).encode()) for t in texts)
    taken = {xxhash.xxh3_64_intdigest(group.encode()) % 100 for group in groups}
    assert len(texts) == len(examples.ids)

    with pytest.raises(ConfigError, match="of 120 training queries none is held out"):
        job.prepare(config(data={"folds": 100, "held_out_fold": min(set(range(100)) - taken)}))


def test_no_training_query_is_told(config: Make, recordings: Path, tmp_path: Path) -> None:
    table = pq.read_table(recordings / "queries.parquet")
    split = table.column_names.index("split")
    other = table.set_column(split, "split", pa.array(["demo"] * QUERIES))
    (tmp_path / "demo").mkdir()
    pq.write_table(other, tmp_path / "demo" / "queries.parquet")

    with pytest.raises(ConfigError, match="no query whose split is 'train'"):
        job.prepare(config(recordings=str(tmp_path / "demo")))


def test_workers_that_would_wait_for_ever_are_refused(config: Make) -> None:
    wanted = config(cluster={"workers": 2, "gpus_per_worker": 1})

    with pytest.raises(ConfigError, match=r"cluster.gpus_per_worker is 2, and there are 1:"):
        job.check_cluster(wanted, cpus=8, gpus=1)


def test_a_missing_extra_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    # The packages that count are installed here, or the module would have been skipped.
    monkeypatch.setattr(job, "PACKAGES", ("torch", "no_such_package"))

    with pytest.raises(
        ConfigError, match=r"needs no_such_package.*pip install -e '.\[fine-tune\]'"
    ):
        job.need_extra()


def test_the_shipped_config_is_valid_and_fits_its_gpu() -> None:
    from moa.toml_file import read_toml

    shipped = read_toml(FineTuneConfig, ROOT / "jobs/configs/fine_tune_backbone.toml")
    assert shipped.base.name == "Qwen/Qwen2.5-7B-Instruct"

    needs = memory(QWEN, tokens=shipped.optimizer.micro_batch_tokens)

    assert needs.together < 80e9 * 0.9


# The arithmetic


QWEN = Shape(
    parameters=7_070_619_136,
    in_layers=6_525_621_760,
    learned=40_370_176,
    layers=28,
    width=3584,
    inner=18_944,
    keys=512,
)
"""By hand: 28 layers of 3584 * 3584 twice, 3584 * 512 twice, 3584 * 18,944 three times, biases of
3584 + 512 + 512, two norms; one more norm; 152,064 * 3584 of embeddings. Learned: 28 * 16 * (7168
+ 4096 + 4096 + 7168 + 3 * 22,528)."""


def test_the_shape_of_a_7b_is_counted_right(tmp_path: Path) -> None:
    from moa.fine_tuning.config import LoraConfig
    from tests.gpu.test_fine_tune_gpu import QWEN_7B

    (tmp_path / "config.json").write_text(json.dumps(QWEN_7B))
    with torch.device("meta"):
        encoder = trainable(outline(tmp_path), LoraConfig(rank=16))

    assert shape_of(encoder, QWEN_7B) == QWEN


def test_memory_and_time_of_a_7b_are_those_by_hand() -> None:
    needs = memory(QWEN, tokens=8192)

    assert needs.weights == 14_141_238_272
    assert needs.learned == 645_922_816
    assert needs.kept == 28 * 8192 * 3584 * 2
    assert needs.inside == 8192 * (8 * 3584 + 2 * 512 + 5 * 18_944) * 2
    assert needs.together == 14_141_238_272 + 645_922_816 + 1_644_167_168 + 2_038_431_744
    assert memory(QWEN, tokens=8192, checkpointing=False).kept == 28 * needs.inside
    assert memory(QWEN, tokens=8192, shares=4).weights == 3_535_309_568
    assert flop_per_token(QWEN) == 6 * 6_525_621_760
    assert flop_per_token(QWEN, adapters=False, checkpointing=False) == 6 * 6_525_621_760


def test_learning_all_weights_of_minilm_is_counted_as_such() -> None:
    config = json.loads((minilm() / "config.json").read_text())
    encoder = trainable(outline(minilm()), None)

    shape = shape_of(encoder, config)

    # 6 layers of 384 * 384 four times and 384 * 1536 twice with biases and norms, and the pooler.
    assert shape.in_layers == 6 * 1_774_464 + 147_840
    assert memory(shape, tokens=1, adapters=False).learned == 16 * shape.learned


# By Ray Train


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[[FineTuneConfig], subprocess.Popen[str]]]:
    """Starts of the job, each in a process of its own; none outlives the test."""
    processes: list[tuple[subprocess.Popen[str], list[psutil.Process]]] = []

    def start(config: FineTuneConfig) -> subprocess.Popen[str]:
        path = tmp_path / "job.toml"
        path.write_text(as_toml(config.model_dump(mode="json", exclude_none=True)))
        process = subprocess.Popen(
            [sys.executable, "jobs/fine_tune_backbone.py", "--config", str(path)],
            cwd=ROOT,
            env={**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append((process, []))
        return process

    yield start
    for process, _ in processes:
        if process.poll() is None:
            kill(process)


def kill(process: subprocess.Popen[str]) -> None:
    """By SIGKILL, with all that it has started, as a loss of power does."""
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    for one in family:
        if one.is_running():
            one.kill()
    psutil.wait_procs(family, timeout=30)
    process.communicate()


def as_toml(document: dict[str, Any], prefix: str = "") -> str:
    plain = [f"{k} = {json.dumps(v)}" for k, v in document.items() if not isinstance(v, dict)]
    tables = [
        f"[{prefix}{key}]\n{as_toml(value, f'{prefix}{key}.')}"
        for key, value in document.items()
        if isinstance(value, dict)
    ]
    return "\n".join([*plain, *tables])


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("storage", ["disk", "bucket"])
def test_a_job_that_is_killed_goes_on_from_its_last_checkpoint_and_ends_as_if_it_had_not_been(
    config: Make,
    tmp_path: Path,
    started: Callable[[FineTuneConfig], subprocess.Popen[str]],
    object_store: str,
    storage: str,
) -> None:
    where = {"disk": str(tmp_path / "storage"), "bucket": f"{object_store}/storage"}[storage]
    # Ray Train looks for reports every two seconds: ten evaluations take twenty. Its workers run in
    # a folder of their own, so relative paths must be made whole before.
    model = config().base.name
    asked = config(
        storage=where,
        base={"name": os.path.relpath(model, ROOT) if storage == "disk" else model},
        tensorboard=str(tmp_path / "events") if storage == "bucket" else None,
        optimizer={"steps": 60, "patience": 99},
        lora={"dropout": 0.1},
    )
    undisturbed = Kept(tmp_path / "undisturbed")
    run(asked, undisturbed)
    best = min(undisturbed.losses(), key=lambda step: undisturbed.losses()[step])

    killed = started(asked)
    wait_for_step(Folder(asked.run_url), 20, killed)
    kill(killed)
    out, err = (again := started(asked)).communicate(timeout=600)

    assert again.returncode == 0, err[-4000:]
    assert '"fine_tune.resumed"' in out + err
    card = json.loads((Path(asked.output) / CARD).read_text())
    assert card["step"] == best
    assert card["held_out_loss"] == pytest.approx(undisturbed.losses()[best], rel=1e-6)
    assert f"after {best} steps" in out
    events = Path(asked.tensorboard or f"{asked.run_url}/tensorboard")
    assert len(list(events.glob("events.*"))) == 2
    with pytest.raises(RunError, match="is a run with another seed"):
        job.prepare(
            asked.model_copy(update={"seed": 5, "output": str(tmp_path / "elsewhere" / "tuned")})
        )


def wait_for_step(folder: Folder, step: int, process: subprocess.Popen[str]) -> None:
    """Until a checkpoint of that step or a later one is whole: Ray lists it."""
    give_up_at = time.monotonic() + 400
    while time.monotonic() < give_up_at:
        assert process.poll() is None, process.communicate()[1][-4000:]
        with suppress(json.JSONDecodeError):  # it may be replaced while it is read
            listed = json.loads(folder.read("checkpoint_manager_snapshot.json") or b"{}")
            if any(one["metrics"]["step"] >= step for one in listed.get("checkpoint_results", ())):
                return
        time.sleep(0.1)  # the job is another process: its files are all that is seen of it
    raise AssertionError(f"no checkpoint of step {step} in {folder.url}")
