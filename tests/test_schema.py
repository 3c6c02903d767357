from __future__ import annotations

import pyarrow as pa
import pytest

from moa.errors import SchemaError
from moa.schema import GRADED_OUTCOMES, agree


def graded(**columns: object) -> pa.Table:
    rows = {
        "query_id": ["q"], "model": ["m"], "grade": [0.5], "input_tokens": [1],
        "output_tokens": [1], "grader": ["g"],
    } | columns  # fmt: skip
    return pa.table(rows)


def test_an_agreed_table_has_the_schemas_columns_types_and_order() -> None:
    loose = graded(extra=["x"])

    table = agree(loose.select(sorted(loose.column_names)), GRADED_OUTCOMES, where="test")

    assert table.schema == GRADED_OUTCOMES


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (graded().drop_columns(["model"]), "model"),
        (graded(model=pa.array([None], pa.string())), "1 nulls in required 'model'"),
        (graded(grade=["high"]), "test"),
    ],
)
def test_a_table_that_does_not_agree_is_refused(table: pa.Table, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        agree(table, GRADED_OUTCOMES, where="test")
