"""Drift: on real queries, with routers that were taught them and routers that were not."""

from __future__ import annotations

import importlib
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moa.intervals import Interval
from moa.reports.drift import OFF, STRANGE, Drift, TagDrift
from moa.reports.drift_words import drift_sentences
from moa.router.artifact import write_artifact
from moa.router.facts import steps_of
from moa.training.backbone import HashingConfig, open_for_training
from moa.training.dataset import Dataset, read_dataset
from moa.training.fit import fit
from moa.training.train import fit_prompt_tokens, text_hashes
from tests.reports.recorded_night import (
    POOL,
    RECORDINGS,
    answer,
    decided,
    graded,
    log_of,
    of_sources,
    report,
)

SOURCES = (
    "farel", "lineage-2024", "zeroeval-crux", "zeroeval-gsm", "zeroeval-math-l5",
    "zeroeval-numersense-v2",
)  # fmt: skip
EACH = 100
"""Training queries of a source: few, so that a fit takes seconds."""


def taught_without(source: str, folder: Path) -> str:
    """A router of the recordings' `train` split but for one source; its artifact."""
    every = read_dataset(str(RECORDINGS), list(POOL), split="train")
    data = every.only(_some_of_each(every, source))
    backbone = open_for_training(HashingConfig(), artifact=folder)
    with importlib.import_module("threadpoolctl").threadpool_limits(1):
        fitted = fit(data, backbone.read(data.texts), folds=3)
    facts = {
        "source": "recordings", "queries": len(data.texts), "outcomes": {}, "mean_grade": {},
        "other_models": 0, "cross_validation": {}, "calibration": {},
        "domain_queries": dict(Counter(data.sources)),
    }  # fmt: skip
    description = {
        "backbone": backbone.spec, "domains": fitted.domains, "models": list(data.models),
        "tokens_per_feature": fit_prompt_tokens(data).tolist(), "training": facts,
    }  # fmt: skip
    tensors = {
        **fitted.tensors,
        "training.grades": steps_of(data.grade),
        "training.text_hash": text_hashes(data.texts),
    }
    write_artifact(folder, description, tensors, ("", ""))
    return str(folder)


def _some_of_each(data: Dataset, left_out: str) -> np.ndarray:
    order = np.random.default_rng(1).permutation(len(data.texts))
    kept, counts = np.zeros(len(order), np.bool_), Counter[str]()
    for n in order.tolist():
        counts[data.sources[n]] += 1
        kept[n] = data.sources[n] != left_out and counts[data.sources[n]] <= EACH
    return kept


def drift_of(folder: Path, log: pa.Table, *overrides: str) -> tuple[Drift, Drift]:
    """With all grades, and without any."""
    job = decided(folder, log, *overrides)
    answer(job)
    nothing = folder / "nothing.parquet"
    pq.write_table(graded().slice(0, 0), nothing)
    found = [report(job), report(job, f"report.graded_outcomes={nothing}")]
    assert found[0].drift is not None
    assert found[1].drift is not None
    return found[0].drift, found[1].drift


def to_do(drift: Drift) -> dict[str | None, str]:
    return {one.tag: one.action for one in drift.tags if one.action != "nothing"}


def test_on_the_demo_there_is_nothing_to_do(tmp_path: Path) -> None:
    log = pq.read_table(RECORDINGS / "demo_backlog.parquet")

    graded_drift, bare = drift_of(tmp_path, log)

    for one in (graded_drift, bare):
        assert to_do(one) == {}
        assert one.whole.action == "nothing"
        assert drift_sentences(one)[0].startswith("No need to retrain")
    assert 0.05 < graded_drift.whole.unusual.value < 0.12  # one in ten at most, by construction
    assert graded_drift.whole.grade_gap is not None
    assert bare.whole.grade_gap is None
    assert sum(one.queries for one in graded_drift.domains) == 1158


def test_a_source_that_was_left_out_of_training_is_named(tmp_path: Path) -> None:
    artifact = taught_without("zeroeval-crux", tmp_path / "artifact")
    log = log_of(of_sources(SOURCES, "demo", most=100))

    graded_drift, bare = drift_of(tmp_path, log, f"router.artifact={artifact}")

    assert list(to_do(graded_drift)) == ["source:zeroeval-crux"]
    assert to_do(bare) == {"source:zeroeval-crux": "fall_back"}
    told = drift_sentences(bare)[0]
    assert told.startswith("Retrain with graded answers to queries tagged source:zeroeval-crux")
    assert f"let {bare.best_constant} answer these" in told
    crux = next(one for one in bare.tags if one.tag == "source:zeroeval-crux")
    assert crux.strange
    taught = {one.name: one.taught_share for one in graded_drift.domains}
    assert "zeroeval-crux" not in taught
    assert sum(share or 0 for share in taught.values()) == pytest.approx(1)
    assert graded_drift.moved is not None


@pytest.mark.slow
def test_questions_about_everything_are_named_too(tmp_path: Path) -> None:
    """The hardest to notice: they lie near the centre of all others."""
    artifact = taught_without("mmlu-pro", tmp_path / "artifact")
    tables = [of_sources(SOURCES, "demo", most=150), of_sources(["mmlu-pro"], "train", most=1000)]

    graded_drift, bare = drift_of(
        tmp_path, log_of(pa.concat_tables(tables)), f"router.artifact={artifact}"
    )

    assert list(to_do(graded_drift)) == ["source:mmlu-pro"]
    assert to_do(bare) == {"source:mmlu-pro": "fall_back"}


def tag(unusual: float, gap: float | None, worth: float | None = None) -> TagDrift:
    def around(value: float | None, width: float) -> Interval | None:
        return None if value is None else Interval(value, value - width, value + width)

    share = around(unusual, 0.02)
    assert share is not None
    return TagDrift("t", 500, share, 500, 0.7, around(gap, 0.02), around(worth, 0.001))


@pytest.mark.parametrize(
    ("one", "action"),
    [
        (tag(0.09, None), "nothing"),
        (tag(STRANGE + 0.01, None), "nothing"),  # not for certain
        (tag(0.6, None), "fall_back"),
        (tag(0.6, 0.01), "nothing"),  # as good as expected, however new
        (tag(0.6, 0.04), "retrain"),  # perhaps not, and not worse than expected
        (tag(0.09, OFF + 0.03), "retrain"),
        (tag(0.09, -OFF - 0.03), "fall_back"),
        (tag(0.09, -OFF - 0.03, 0.01), "retrain"),  # worse than expected, and still worth more
        (tag(0.09, -OFF - 0.03, -0.01), "fall_back"),
    ],
)
def test_measured_grades_decide_where_they_are_known_and_novelty_where_not(
    one: TagDrift, action: str
) -> None:
    assert one.action == action


def test_all_queries_are_spoken_of_where_no_tag_is() -> None:
    whole = TagDrift(None, 500, Interval(0.7, 0.6, 0.8), 0, None, None, None)

    told = drift_sentences(Drift(whole, (), "v/dear", (), None))

    assert told[0].startswith("Retrain with graded answers to queries of this log")
    assert "let v/dear answer all" in told[0]
    assert drift_sentences(None) == []
