"""The scan on a Ray of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moa.config import load_config
from moa.errors import ConfigError
from moa.pipeline.failures import told_plainly
from moa.pipeline.graph import decide_backlog, scan_backlog
from moa.pipeline.job import Job, check_job
from moa.pipeline.run import local_ray
from moa.storage.run_folder import PartName, RunFolder
from moa.storage.scan import scan


def job_of(folder: Path) -> Job:
    overrides = [f"queries.path={folder}/log", f"run.folder={folder}/runs", "queries.dedupe=true"]
    return check_job(load_config("jobs/configs/demo.toml", overrides), environ={})


@pytest.fixture(scope="module", autouse=True)
def _ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("ray")
    write(folder, ["Hi"])
    with local_ray(job_of(folder)):
        yield


def write(folder: Path, *groups: list[str]) -> Path:
    """A file with a row group for each list of prompts."""
    path = folder / "log" / "night.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    first = 0
    schema = pa.schema([("query_id", pa.int64()), ("prompt", pa.string())])
    with pq.ParquetWriter(path, schema, use_dictionary=False, compression="none") as writer:
        for prompts in groups:
            ids = list(range(first, first + len(prompts)))
            writer.write_table(pa.table({"query_id": ids, "prompt": prompts}, schema=schema))
            first += len(prompts)
    return path


def test_many_tasks_find_what_one_process_finds(tmp_path: Path) -> None:
    write(tmp_path, ["a", "b"], ["b"], ["c"], ["a", "c", "b"])
    job = job_of(tmp_path)

    scan_backlog(job)
    scan_backlog(job)  # a second start

    run = RunFolder(job.run_folder)
    alone = scan(job.partitions, job.config.queries)
    kept = pa.concat_tables(run.read_duplicates(p.number) for p in job.partitions)
    assert kept.equals(alone.duplicates)
    assert kept.num_rows == 7
    assert run.scanned_queries() == alone.queries == 3


def test_a_damaged_page_is_told_in_one_line_with_its_place(tmp_path: Path) -> None:
    path = write(tmp_path, ["a", "b"], ["c", "d"])
    offset = pq.read_metadata(path).row_group(1).column(1).data_page_offset
    damaged = bytearray(path.read_bytes())
    damaged[offset : offset + 8] = b"\xff" * 8
    path.write_bytes(damaged)
    job = job_of(tmp_path)

    with pytest.raises(ConfigError) as refused, told_plainly():
        scan_backlog(job)

    said = str(refused.value)
    assert type(refused.value) is ConfigError
    assert f"{path}, row group 1: cannot be read" in said
    assert "leave it out" in said
    assert "\n" not in said
    assert not RunFolder(job.run_folder).has_scan(job.partitions)


def test_what_is_decided_to_its_last_row_is_not_read_again(tmp_path: Path) -> None:
    write(tmp_path, ["a", "b", "c"], ["d", "e"], ["f"])
    job = job_of(tmp_path)
    scan_backlog(job)
    decided = frozenset(
        {PartName(0, 0, 2), PartName(0, 2, 3), PartName(1, 0, 1), PartName(2, 0, 1)}
    )

    parts = [row["part"] for t in decide_backlog(job, decided) for row in t.to_pylist()]

    assert {PartName.parse(part).partition for part in parts} == {1}


def test_when_all_is_decided_nothing_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, ["a", "b"])
    job = job_of(tmp_path)
    scan_backlog(job)
    path.unlink()

    assert list(decide_backlog(job, frozenset({PartName(0, 0, 2)}))) == []
