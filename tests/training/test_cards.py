from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moa.schema import GRADED_OUTCOMES
from moa.training.cards import data_card, figures, model_card, values
from moa.training.fit import Fitted
from tests.training.made import MODELS, SOURCES, made

MADE = made(queries=300)
FITTED = Fitted(list(SOURCES), ["as_it_is", "platt", "isotonic"], {})
HASHING = {"kind": "hashing", "buckets": 1024, "digest": "0" * 16}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [
        {"query_id": f"q{number}", "model": "v/m", "grade": grade, "grader": grader}
        for number, (grader, grade) in enumerate(
            [("numbers", 1.0), ("numbers", 0.0), ("tests", 1.0), ("none", None)]
        )
    ]
    graded = pa.Table.from_pylist(rows, schema=GRADED_OUTCOMES)
    pq.write_table(graded, tmp_path / "graded_outcomes.parquet")
    return tmp_path


def row(card: str, first: str) -> list[str]:
    (line,) = [line for line in card.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_figures_are_of_the_queries_that_a_model_has_a_grade_on() -> None:
    expected = np.full(MADE.data.grade.shape, 0.25)

    told = figures(MADE.data, expected)

    for column, model in enumerate(MODELS):
        grade = MADE.data.grade[:, column]
        known = grade[~np.isnan(grade)]
        assert told[model].queries == len(known)
        found = values(told[model])
        assert found["brier"] == pytest.approx(((known - 0.25) ** 2).mean(), abs=1e-4)
        assert found["brier_of_mean"] == pytest.approx(known.var(), abs=1e-4)
        assert found["ece"] == pytest.approx(abs(known.mean() - 0.25), abs=1e-4)
        losses = np.where(known == 1, -np.log(0.25), -np.log(0.75))
        assert found["log_loss"] == pytest.approx(losses.mean(), abs=1e-4)


def test_a_model_card_tells_each_models_figures_with_intervals() -> None:
    told = figures(MADE.data, MADE.likely)

    card = model_card(HASHING, MADE.data, FITTED, told, folds=5)

    assert "1024 buckets; no weights" in card
    assert "code, maths, talk" in card
    assert "grades of 20 other models" in card
    for model, kind in zip(MODELS, FITTED.calibration, strict=True):
        cells = row(card, model)
        brier = told[model].brier
        assert cells[1] == str(told[model].queries)
        assert cells[2] == f"{brier.value:.4f} ({brier.low:.4f} to {brier.high:.4f})"
        assert cells[-1] == kind


def test_a_model_card_names_a_language_model_and_its_weights() -> None:
    spec = {
        "kind": "language_model", "name": "v/model", "pooling": "last", "dtype": "bfloat16",
        "max_tokens": 512, "weights_sha256": "0123456789abcdef" * 4,
    }  # fmt: skip

    card = model_card(spec, MADE.data, FITTED, figures(MADE.data, MADE.likely), folds=5)

    assert "v/model, last pooling, bfloat16, up to 512 tokens; weights 0123456789ab…" in card


def test_a_data_card_counts_each_models_grades_by_source(folder: Path) -> None:
    card = data_card(MADE.data, folder)

    for number, source in enumerate(SOURCES):
        mine = MADE.domain == number
        known = (~np.isnan(MADE.data.grade[mine])).sum(axis=0)
        assert row(card, source) == [source, str(mine.sum()), *map(str, known)]
    assert "Graded by numbers, tests." in card
    assert "300 queries in 300 groups" in card


def test_a_data_card_says_where_the_licences_are_or_that_none_is_stated(folder: Path) -> None:
    without = data_card(MADE.data, folder)
    (folder / "README.md").write_text("# Where it is from")

    card = data_card(MADE.data, folder)

    assert "not stated" in without
    assert f"`{folder / 'README.md'}`" in card
