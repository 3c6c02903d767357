from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moa.errors import ConfigError
from moa.grading.judgements import Pair, Rating, read_judgements

PAIR = {"query_id": "q1", "model_a": "v/x", "model_b": "v/y"}


def lines(tmp_path: Path, *rows: object) -> str:
    path = tmp_path / "said.jsonl"
    path.write_text(
        "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in rows)
    )
    return str(path)


def test_pairs_ratings_and_thumbs_are_read_from_one_file(tmp_path: Path) -> None:
    path = lines(
        tmp_path,
        {**PAIR, "winner": "b", "weight": 2, "rater": "ann", "source": "poems"},
        {"query_id": 7, "model": "v/x", "rating": 4, "rater": "bob"},
        {"query_id": "q2", "model": "v/x", "thumb": "up"},
        {"query_id": "q2", "model": "v/x", "thumb": "down", "of no interest": [1]},
        {"query_id": "q3", "model": "v/x", "grade": 0.2},
    )

    found = read_judgements([path])

    assert found.pairs == [Pair("q1", "v/x", "v/y", 0.0, 2.0, "ann", "poems")]
    assert found.ratings == [
        Rating("7", "v/x", 0.75, "bob"),
        Rating("q2", "v/x", 1.0),
        Rating("q2", "v/x", 0.0),
        Rating("q3", "v/x", 0.2),
    ]
    assert found.defects == []


@pytest.mark.parametrize(
    ("winner", "share"),
    [("a", 1.0), ("model_b", 0.0), ("tie (bothbad)", 0.5), ("v/y", 0.0), ("v/x", 1.0)],
)
def test_winners_are_read_as_arenas_write_them(tmp_path: Path, winner: str, share: float) -> None:
    found = read_judgements([lines(tmp_path, {**PAIR, "winner": winner})])

    assert [one.share for one in found.pairs] == [share]


def test_parquet_says_the_same(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {**PAIR, "winner": "tie", "model": None, "rating": None},
        {"query_id": "q2", "model": "v/x", "rating": 1},
    ]
    columns = ["query_id", "model_a", "model_b", "winner", "model", "rating"]
    table = pa.table({name: [row.get(name) for row in rows] for name in columns})
    pq.write_table(table, tmp_path / "said.parquet")

    found = read_judgements([f"{tmp_path}/said.parquet"])

    assert found.pairs == [Pair("q1", "v/x", "v/y", 0.5)]
    assert found.ratings == [Rating("q2", "v/x", 0.0)]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({**PAIR, "winner": "c"}, "winner 'c' is none of a, b and tie"),
        ({**PAIR, "winner": None}, "winner None is none"),
        ({**PAIR, "winner": "neither", "reason": "who knows"}, "winner 'neither' is none"),
        ({**PAIR, "model_b": "v/x", "winner": "a"}, "are one model"),
        ({**PAIR, "winner": "a", "weight": 0}, "weight: "),
        ({**PAIR, "winner": "a", "rating": 3}, "one answer and two at once"),
        ({"query_id": "q", "model": "v/x", "rating": 6}, "rating: "),
        ({"query_id": "q", "model": "v/x", "rating": 3, "thumb": "up"}, "one of grade"),
        ({"query_id": "q", "model": "v/x", "grade": 1, "rating": 1, "reason": "?"}, "one of grade"),
        ({"query_id": "q", "model": "v/x"}, "one of grade"),
        ({"query_id": "q", "rating": 3}, "names neither"),
        ({"query_id": "", "model": "v/x", "rating": 3}, "query_id: "),
        ("{no json", "valid dictionary"),
        ('{"query_id": "q", "model": "m", "grade": NaN}', "valid dictionary"),
    ],
)
def test_a_bad_row_is_a_defect_and_the_others_count(tmp_path: Path, row: object, why: str) -> None:
    path = lines(tmp_path, {**PAIR, "winner": "a"}, row)

    found = read_judgements([path])

    assert len(found.pairs) == 1
    (defect,) = found.defects
    assert defect.startswith(f"{path}, row 2: ")
    assert why in defect


def test_what_could_not_be_told_has_its_reason(tmp_path: Path) -> None:
    said = {"query_id": "q1", "model": "v/x", "grade": None, "reason": "no verdict"}

    found = read_judgements([lines(tmp_path, said, {**PAIR, "winner": None, "reason": "no"})])

    assert found.ratings == [Rating("q1", "v/x", None, "", "no verdict")]
    assert found.pairs == []


@pytest.mark.parametrize("text", ["", "nothing\nof use\n"])
def test_a_file_without_one_judgement_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "said.jsonl").write_text(text)

    with pytest.raises(ConfigError, match=r"said\.jsonl has no judgement that can be read"):
        read_judgements([f"{tmp_path}/said.jsonl"])


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for name in ("gone.jsonl", "gone.parquet"):
        with pytest.raises(ConfigError, match=f"{name} cannot be read"):
            read_judgements([f"{tmp_path}/{name}"])
