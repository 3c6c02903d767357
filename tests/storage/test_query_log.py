from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moa.config import QueryLogConfig
from moa.errors import ConfigError
from moa.storage.object_store import Folder
from moa.storage.query_log import BATCH_BYTES, LINE, find_backlog, read_partition

FIVE = pa.table({"query_id": list("abcde"), "prompt": ["1", "2", "3", "4", "5"]})


def log(path: Path | str | list[str], **fields: object) -> QueryLogConfig:
    shown = path if isinstance(path, list) else str(path)
    return QueryLogConfig.model_validate({"path": shown, **fields})


def test_each_row_group_is_a_partition_in_the_order_of_paths(tmp_path: Path) -> None:
    pq.write_table(FIVE, tmp_path / "b.parquet", row_group_size=2)
    pq.write_table(FIVE, tmp_path / "a.parquet")

    found = find_backlog(log(tmp_path)).partitions

    assert [p.number for p in found] == [0, 1, 2, 3]
    assert [Path(p.url).name for p in found] == ["a.parquet"] + 3 * ["b.parquet"]
    assert [(p.row_group, p.rows) for p in found] == [(0, 5), (0, 2), (1, 2), (2, 1)]


def test_a_glob_a_list_and_a_folder_find_the_same_files_once(tmp_path: Path) -> None:
    for name in ("x/a.parquet", "x/deep/b.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(FIVE, tmp_path / name)
    (tmp_path / "x" / "_SUCCESS").write_text("done")
    (tmp_path / "x" / "readme.txt").write_text("a log")

    folder = find_backlog(log(tmp_path / "x")).partitions

    assert folder == find_backlog(log(f"{tmp_path}/x/**/*.parquet")).partitions
    assert folder == find_backlog(log(f"{tmp_path}/**")).partitions
    assert folder == find_backlog(log([f"{tmp_path}/x", f"{tmp_path}/x/a.parquet"])).partitions
    assert folder[:1] == find_backlog(log(f"{tmp_path}/x/*.parquet")).partitions
    assert folder[:1] == find_backlog(log(f"{tmp_path}/[x]/?.parquet")).partitions
    assert len(folder) == 2


def test_a_file_that_was_written_again_is_another_one(tmp_path: Path) -> None:
    pq.write_table(FIVE, tmp_path / "a.parquet")
    first = find_backlog(log(tmp_path)).partitions

    again = find_backlog(log(tmp_path)).partitions
    stat = (tmp_path / "a.parquet").stat()
    pq.write_table(FIVE, tmp_path / "a.parquet")
    os.utime(tmp_path / "a.parquet", ns=(0, stat.st_mtime_ns + 1))
    changed = find_backlog(log(tmp_path)).partitions

    assert first == again
    assert first != changed
    assert [(p.url, p.rows) for p in first] == [(p.url, p.rows) for p in changed]


@pytest.mark.parametrize("batch_rows", [1, 2, 100])
def test_a_partition_is_read_in_order_and_in_batches(tmp_path: Path, batch_rows: int) -> None:
    pq.write_table(FIVE, tmp_path / "a.parquet", row_group_size=3)
    config = log(tmp_path)
    second = find_backlog(config).partitions[1]

    tables = list(read_partition(second, config, batch_rows=batch_rows))

    assert all(table.num_rows <= batch_rows for table in tables)
    assert pa.concat_tables(tables).to_pydict() == {
        "query_id": ["d", "e"], "prompt": ["4", "5"], "row": [0, 1],
    }  # fmt: skip


def test_columns_are_read_by_their_mapped_names(tmp_path: Path) -> None:
    table = pa.table({"request_id": [7], "input_text": ["Hi"], "prompt": ["not this"], "who": [1]})
    pq.write_table(table, tmp_path / "a.parquet")
    config = log(tmp_path, columns={"query_id": "request_id", "prompt": "input_text"})

    (table,) = read_partition(find_backlog(config).partitions[0], config, batch_rows=10)

    assert table.to_pydict() == {"query_id": [7], "prompt": ["Hi"], "row": [0]}


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_jsonl_is_read_line_by_line(tmp_path: Path, name: str) -> None:
    text = b"".join(json.dumps({"custom_id": str(n)}).encode() + b"\n\n" for n in range(5))
    text = b"\xef\xbb\xbf" + text
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    config = log(tmp_path)

    (partition,) = find_backlog(config).partitions
    tables = list(read_partition(partition, config, batch_rows=2))

    assert [table.num_rows for table in tables] == [2, 2, 1]
    lines = pa.concat_tables(tables).column(LINE).to_pylist()
    assert [json.loads(line)["custom_id"] for line in lines] == ["0", "1", "2", "3", "4"]


def test_a_log_in_a_bucket_is_read_alike(object_store: str, tmp_path: Path) -> None:
    Folder(f"{object_store}/logs").put_table("night/a.parquet", FIVE)
    config = log(f"{object_store}/logs/*/*.parquet")

    (partition,) = find_backlog(config).partitions
    (table,) = read_partition(partition, config, batch_rows=10)

    assert partition.url == f"{object_store}/logs/night/a.parquet"
    assert table.column("query_id").to_pylist() == list("abcde")


@pytest.mark.parametrize(
    ("table", "fields", "said"),
    [
        (FIVE, {"columns": {"prompt": "prompt_"}}, "no column 'prompt_'. Did you mean 'prompt'?"),
        (FIVE, {"columns": {"prompt_": "prompt"}}, "no column 'prompt_'. Did you mean 'prompt'?"),
        (FIVE.drop_columns(["query_id"]), {}, "has no column query_id. It has prompt"),
        (FIVE.drop_columns(["prompt"]), {}, "has no column prompt or messages"),
        (
            FIVE.append_column("temperature", pa.array(list("12345"))), {},
            "column 'temperature' is string, and temperature takes numbers",
        ),
        (
            FIVE.append_column("tags", pa.array(list("12345"))), {},
            "column 'tags' is string, and tags takes a list of texts",
        ),
        (
            FIVE.append_column("messages", pa.array([["Hi"]] * 5)), {},
            "messages takes a list of structs with role and content",
        ),
        (FIVE.append_column("prompt", FIVE["prompt"]), {}, "more than one column 'prompt'"),
        (FIVE.slice(0, 0), {}, "holds no rows"),
    ],
)  # fmt: skip
def test_a_log_that_cannot_be_read_is_refused(
    tmp_path: Path, table: pa.Table, fields: dict[str, object], said: str
) -> None:
    pq.write_table(table, tmp_path / "a.parquet")

    with pytest.raises(ConfigError) as refused:
        find_backlog(log(tmp_path, **fields))

    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere", "no file at"),
        ("no.parquet", "is no Parquet file"),
        ("log.txt", "set queries.format"),
    ],
)
def test_a_file_that_is_none_is_told_by_its_name(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "no.parquet").write_bytes(b"not Parquet")
    (tmp_path / "log.txt").write_text("text")

    with pytest.raises(ConfigError, match=said) as refused:
        find_backlog(log(tmp_path / name))

    assert name in str(refused.value)


def test_two_columns_of_a_name_that_nobody_reads_do_no_harm(tmp_path: Path) -> None:
    table = FIVE.append_column("x", FIVE["prompt"]).append_column("x", FIVE["prompt"])
    pq.write_table(table, tmp_path / "a.parquet")
    config = log(tmp_path)

    (table,) = read_partition(find_backlog(config).partitions[0], config, batch_rows=10)

    assert table.column_names == ["query_id", "prompt", "row"]


GZIPPED = gzip.compress(os.urandom(4_000_000).hex().encode())


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.parquet", b"PAR1" + b"x" * 100 + b"PAR1", "is no Parquet file"),
        ("a.parquet", b"PAR1" + b"x" * 100 + b"PARE", "cannot be read|is no Parquet file"),
        ("a.jsonl.gz", b'{"custom_id": "a"}', "cannot be read"),
        ("a.jsonl", GZIPPED, "no JSONL but gzip"),
        ("a.jsonl", b"PAR1xxxx", "no JSONL but Parquet"),
        ("a.jsonl", '{"custom_id": "a"}'.encode("utf-16"), "no JSONL but binary or UTF-16"),
        ("a.jsonl", b'\xef\xbb\xbf\n [{"custom_id": "a"}]', "no JSONL but one JSON array"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_refused_by_its_name(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)

    with pytest.raises(ConfigError, match=said) as refused:
        find_backlog(log(tmp_path))

    assert f"{tmp_path}/{name}" in str(refused.value)
    assert "leave it out" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.parquet"])
def test_damage_further_on_is_told_with_its_place(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "a.parquet":
        pq.write_table(pa.table({"query_id": list("abc"), "prompt": list("abc")}), path)
        damaged = bytearray(path.read_bytes())
        damaged[4:24] = b"\xff" * 20  # the header of the first page
        path.write_bytes(damaged)
    else:
        path.write_bytes(GZIPPED[:3_000_000])
    config = log(tmp_path)
    (partition,) = find_backlog(config).partitions

    with pytest.raises(ConfigError, match=f"{name}.*cannot be read after row 0.*Write the file"):
        list(read_partition(partition, config, batch_rows=1000))


def test_a_column_whose_name_is_no_utf8_is_told_with_its_file(tmp_path: Path) -> None:
    pq.write_table(FIVE, tmp_path / "a.parquet", store_schema=False)
    content = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(content.replace(b"prompt", b"pr\xffmpt"))

    with pytest.raises(ConfigError, match=r"a.parquet: cannot be read: .*utf-8"):
        find_backlog(log(tmp_path))


def test_columns_are_not_mapped_of_a_format_that_has_none(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"custom_id": "a"}')

    with pytest.raises(ConfigError, match=r"queries.columns names columns, and .*a.jsonl is JSONL"):
        find_backlog(log(tmp_path, columns={"query_id": "custom_id"}))


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_long_rows_come_few_at_a_time(tmp_path: Path, ending: str) -> None:
    long = [f"{n}{'x' * (1 << 20)}" for n in range(30)]
    if ending == "parquet":
        pq.write_table(pa.table({"query_id": list(range(30)), "prompt": long}),
                       tmp_path / "a.parquet")  # fmt: skip
    else:
        (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": one}) for one in long))
    config = log(tmp_path)

    tables = list(read_partition(find_backlog(config).partitions[0], config, batch_rows=1000))

    assert sum(table.num_rows for table in tables) == 30
    assert all(table.nbytes < 1.5 * BATCH_BYTES for table in tables)
