"""The backlog as files: found, checked and cut into partitions before any call; read as a stream.

A partition is one row group of a Parquet file, or one JSONL file; its number follows the order of
paths. What a row means is `moa.storage.prepare`'s to say.
"""

from __future__ import annotations

import difflib
import fnmatch
import io
import itertools
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from moa.config import QueryLogConfig
from moa.errors import ConfigError
from moa.storage.log_columns import COLUMNS, REQUIRED_ONE_OF, fits, wanted
from moa.storage.object_store import filesystem_of

FORMATS = {
    ".parquet": "parquet",
    ".jsonl": "openai_batch",
    ".jsonl.gz": "openai_batch",
}
"""By extension."""
LINE = "line"
"""The column of a table that was read from JSONL: one request as it stands in the file."""
_FOOTERS_AT_ONCE = 16
_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Partition:
    """What is read by one task."""

    number: int
    url: str
    row_group: int | None
    """`None`: the whole file."""
    rows: int | None
    """`None`: not known before the file is read."""


def find_partitions(log: QueryLogConfig) -> list[Partition]:
    """Find the backlog's files and check what can be checked without reading their rows.

    Raises:
        ConfigError: no file, a column that is missing or has another type.
    """
    paths = [log.path] if isinstance(log.path, str) else log.path
    try:
        urls = sorted({url for path in paths for url in _files(path, log)})
    except OSError as error:
        raise ConfigError(
            f"queries.path: {', '.join(paths)} cannot be listed: {error}. Correct the address or "
            "the credentials in the environment"
        ) from None
    with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
        found = list(pool.map(lambda url: _groups(url, log), urls))
    flat = [(url, *group) for url, groups in zip(urls, found, strict=True) for group in groups]
    if not flat:
        raise ConfigError(f"queries.path: {', '.join(paths)} holds no rows: nothing to do")
    return [Partition(n, url, group, rows) for n, (url, group, rows) in enumerate(flat)]


def read_partition(
    partition: Partition, log: QueryLogConfig, *, batch_rows: int
) -> Iterator[pa.Table]:
    """The rows of a partition, in order, never all at once.

    Args:
        partition: as found.
        log: as configured.
        batch_rows: of one table, at most.

    Returns:
        Tables with `row` (from 0) and the log's columns by our names, or `LINE`.
    """
    filesystem, path = filesystem_of(partition.url)
    read = _read_lines if _format(partition.url, log) == "openai_batch" else _read_group
    row = 0
    for table in read(filesystem, path, partition, log, batch_rows):
        numbers = pa.array(range(row, row + table.num_rows), pa.int64())
        yield table.append_column("row", numbers)
        row += table.num_rows


def _files(path: str, log: QueryLogConfig) -> list[str]:
    """The files behind one entry of `queries.path`, as URLs."""
    filesystem, place = filesystem_of(path)
    prefix = path.partition("://")[0] + "://" if "://" in path else ""
    if any(mark in place for mark in "*?["):
        base = place[: min(place.index(m) for m in "*?[" if m in place)].rpartition("/")[0]
        names = [n for n in _below(filesystem, base) if fnmatch.fnmatch(n, place)]
    else:
        (info,) = filesystem.get_file_info([place])
        if info.type == fs.FileType.File:
            names = [place]
        else:
            names = [n for n in _below(filesystem, place) if log.format or _extension(n)]
    if not names:
        raise ConfigError(
            f"queries.path: no file at {path}. Give a Parquet or JSONL file, a folder of them, or "
            "a glob"
        )
    return [prefix + name for name in names]


def _below(filesystem: fs.FileSystem, folder: str) -> list[str]:
    """Files below a folder, without those that other tools hide there (`_SUCCESS`, `.crc`)."""
    selector = fs.FileSelector(folder, recursive=True, allow_not_found=True)
    return [
        info.path
        for info in filesystem.get_file_info(selector)
        if info.type == fs.FileType.File
        and info.size
        and not any(part.startswith(("_", ".")) for part in info.path[len(folder) :].split("/"))
    ]


def _extension(name: str) -> str | None:
    return next((ending for ending in FORMATS if name.endswith(ending)), None)


def _format(url: str, log: QueryLogConfig) -> str:
    ending = _extension(url)
    if log.format is None and ending is None:
        raise ConfigError(
            f"{url}: its name does not say what it is ({', '.join(FORMATS)}): set queries.format "
            "to parquet or openai_batch"
        )
    return log.format or FORMATS[ending or ""]


def _groups(url: str, log: QueryLogConfig) -> list[tuple[int | None, int | None]]:
    """Row group and rows of each partition of a file that has any."""
    if _format(url, log) == "openai_batch":
        return [(None, None)]
    filesystem, path = filesystem_of(url)
    try:
        with filesystem.open_input_file(path) as file:
            footer = pq.ParquetFile(file)
            _check_columns(url, footer.schema_arrow, log)
            metadata = footer.metadata
    except pa.ArrowInvalid as error:
        raise ConfigError(
            f"{url} is no Parquet file ({error}): correct it, or leave it out"
        ) from None
    sizes = [(g, metadata.row_group(g).num_rows) for g in range(metadata.num_row_groups)]
    return [(group, rows) for group, rows in sizes if rows]


def _check_columns(url: str, schema: pa.Schema, log: QueryLogConfig) -> None:
    """Every mapped column is there, what is needed is there, and each has a type that we read."""
    for ours, theirs in log.columns.items():
        if ours not in COLUMNS:
            raise ConfigError(_unknown("queries.columns", ours, COLUMNS))
        if theirs not in schema.names:
            raise ConfigError(_unknown(f"{url}, queries.columns.{ours}", theirs, schema.names))
    names = wanted(schema.names, log.columns)
    if "query_id" not in names:
        raise ConfigError(_missing(url, "query_id", schema))
    if not any(name in names for name in REQUIRED_ONE_OF):
        raise ConfigError(_missing(url, " or ".join(REQUIRED_ONE_OF), schema))
    for ours, theirs in names.items():
        kind = schema.field(theirs).type
        if not fits(ours, kind):
            raise ConfigError(
                f"{url}: column {theirs!r} is {kind}, and {ours} takes {COLUMNS[ours].takes}: "
                "convert it, or map another column by queries.columns"
            )


def _unknown(where: str, name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"{where}: there is no column {name!r}.{hint} There are {', '.join(names)}"


def _missing(url: str, what: str, schema: pa.Schema) -> str:
    return (
        f"{url} has no column {what}. It has {', '.join(schema.names)}: say which of them it is, "
        'as in queries.columns = { query_id = "request_id" }'
    )


def _read_group(
    filesystem: fs.FileSystem,
    path: str,
    partition: Partition,
    log: QueryLogConfig,
    batch_rows: int,
) -> Iterator[pa.Table]:
    with filesystem.open_input_file(path) as file:
        footer = pq.ParquetFile(file)
        names = wanted(footer.schema_arrow.names, log.columns)
        batches = footer.iter_batches(
            batch_size=batch_rows, row_groups=[partition.row_group], columns=list(names.values())
        )
        for batch in batches:
            table = pa.Table.from_batches([batch])
            yield pa.table({ours: table.column(theirs) for ours, theirs in names.items()})


def _read_lines(
    filesystem: fs.FileSystem,
    path: str,
    partition: Partition,
    log: QueryLogConfig,
    batch_rows: int,
) -> Iterator[pa.Table]:
    compression = "gzip" if path.endswith(".gz") else None
    with filesystem.open_input_stream(path, compression=compression) as stream:
        lines = (line for line in io.BufferedReader(stream, _BUFFER_BYTES) if line.strip())
        while batch := list(itertools.islice(lines, batch_rows)):
            yield pa.table({LINE: pa.array(batch, pa.binary())})
