from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from moa.config import QueryLogConfig
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
