from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moa.config import QueryLogConfig
from moa.errors import SchemaError
from moa.schema import USD
from moa.serving import row_log
from moa.serving.row_log import RowLog
from moa.storage.duplicates import DUPLICATES
from moa.storage.prepare import prepare
from moa.storage.query_log import find_backlog, read_partition
from moa.training.dataset import read_dataset
from tests.serving.conftest import STRAIGHT, Serving

Start = Callable[..., Awaitable[Serving]]
TOOL: Any = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
HELLO: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]


async def test_without_being_told_to_nothing_is_kept(start: Start, tmp_path: Path) -> None:
    served = await start()

    await served.client.chat.completions.create(model="moa", messages=HELLO)
    await served.endpoint.keeper.close()

    assert not list(tmp_path.rglob("*.parquet"))  # noqa: ASYNC240 - nothing else runs by now


async def test_the_query_log_is_what_the_nightly_job_and_the_training_read(
    start: Start, tmp_path: Path
) -> None:
    folder = tmp_path / "log"
    served = await start(f"query_log.folder={folder}", f"feedback.folder={folder}")
    create = served.client.chat.completions.create

    plain = await create(model="moa", messages=HELLO, temperature=0.5)
    await create(model=STRAIGHT, messages=HELLO, tools=[TOOL], stop=["x"], max_tokens=50)
    await served.post("/feedback", {"completion_id": plain.id, "grade": 0.5})
    await served.endpoint.keeper.close()

    backlog = find_backlog(QueryLogConfig(path=str(folder / "asked")))
    pieces = read_partition(backlog.partitions[0], QueryLogConfig(path="x"), batch_rows=10)
    rows = pa.concat_tables(pieces)
    prepared = prepare(rows, 0, DUPLICATES.empty_table())
    dataset = read_dataset(folder, [plain.model], split="train")
    outcomes = pq.read_table(folder / "outcomes")
    assert prepared.column("defect").to_pylist() == [None, None]
    assert prepared.column("abilities").to_pylist() == [["temperature"], ["stop", "tools"]]
    assert dataset.grade.tolist() == [[0.5]]
    assert "Be brief." in dataset.texts[0]
    assert outcomes.num_rows == 2
    assert set(outcomes.column("query_id").to_pylist()) == set(
        prepared.column("query_id").to_pylist()
    )


async def test_each_of_several_answers_is_kept_at_its_own_cost(
    start: Start, tmp_path: Path
) -> None:
    folder = tmp_path / "log"
    served = await start(f"query_log.folder={folder}", f"feedback.folder={folder}")
    ask = served.client.chat.completions.with_raw_response.create

    raw = await ask(model="openai/gpt-4o", messages=HELLO, n=3)
    await ask(model="moa", messages=HELLO)
    await served.endpoint.keeper.close()

    kept = pq.read_table(folder / "outcomes")
    costs = [row["cost_usd"] for row in kept.to_pylist() if row["model"] == "openai/gpt-4o"]
    assert kept.num_rows == 4
    assert float(sum(costs[:3])) == pytest.approx(float(raw.headers["x-moa-cost-usd"]), abs=1e-9)


async def test_a_row_that_does_not_fit_keeps_no_other_from_being_written(tmp_path: Path) -> None:
    schema = pa.schema([pa.field("usd", USD), pa.field("name", pa.string())])
    rows = RowLog(str(tmp_path), "rows", schema, rows=10, every_s=0.05)
    third = Decimal(1) / 3

    told = [rows.add({"usd": usd, "name": "a"}) for usd in (Decimal(1), third, Decimal(2))]
    failed = await asyncio.gather(*told, return_exceptions=True)
    await rows.add({"usd": Decimal(3), "name": "b"})
    await rows.close()

    assert all(isinstance(one, SchemaError) for one in failed)
    assert rows.dropped == 1
    assert pq.read_table(tmp_path / "rows").column("usd").to_pylist() == [1, 2, 3]


async def test_a_row_that_there_is_no_room_for_is_not_said_to_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_log, "MOST_HELD", 1)
    rows = RowLog(str(tmp_path), "rows", pa.schema([pa.field("n", pa.int64())]), rows=9, every_s=60)

    kept, dropped = rows.add({"n": 1}), rows.add({"n": 2})
    await rows.close()

    await kept
    with pytest.raises(OSError, match="wait for a store"):
        await dropped
    assert pq.read_table(tmp_path / "rows").column("n").to_pylist() == [1]


async def test_of_several_grades_of_one_completion_the_last_counts(
    start: Start, tmp_path: Path
) -> None:
    folder = tmp_path / "log"
    served = await start(f"query_log.folder={folder}", f"feedback.folder={folder}")
    answer = await served.client.chat.completions.create(model="moa", messages=HELLO)

    grades = [0.5, 0.25, 1.0, 0.0, 0.75]
    for grade in grades:
        await served.post("/feedback", {"completion_id": answer.id, "grade": grade})
    await served.endpoint.keeper.close()

    kept = pq.read_table(folder / "graded_outcomes.parquet").column("grade").to_pylist()
    assert kept == grades, "all are kept, in their order"
    assert read_dataset(folder, [answer.model], split="train").grade.tolist() == [[0.75]]
