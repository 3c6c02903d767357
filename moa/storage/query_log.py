"""The backlog as files: found, checked and cut into partitions before any call; read as a stream.

A partition is one row group of a Parquet file, or one JSONL file; its number follows the order of
paths. What a row means is `moa.storage.prepare`'s to say.
"""

from __future__ import annotations

import difflib
import io
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from moa.config import QueryLogConfig
from moa.errors import ConfigError
from moa.storage.log_columns import COLUMNS, REQUIRED_ONE_OF, fits, wanted
from moa.storage.log_files import FORMATS, extension, files_at
from moa.storage.object_store import filesystem_of

LINE = "line"
"""The column of a table that was read from JSONL: one request as it stands in the file."""
BATCH_BYTES = 8 << 20
"""Of one table that is read, about: long prompts must not fill memory."""
_FOOTERS_AT_ONCE = 16
_BUFFER_BYTES = 1 << 20
_BOM = b"\xef\xbb\xbf"
_FOREIGN = {b"PAR1": "Parquet", b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"PK": "zip"}
"""How files begin that are no text, whatever they are called."""
_UNREADABLE = (OSError, pa.ArrowException, ValueError)
"""What pyarrow raises of a damaged file; `ValueError` where a column's name is no UTF-8."""
_REMEDY = "Write the file anew, or leave it out of queries.path"


@dataclass(frozen=True, slots=True)
class Partition:
    """What is read by one task."""

    number: int
    url: str
    row_group: int | None
    """`None`: the whole file."""
    rows: int | None
    """`None`: not known before the file is read."""
    file_bytes: int = 0
    file_changed_ns: int = 0
    """When the file was last written, in nanoseconds since 1970: another file has another time."""


class Backlog(NamedTuple):
    """The files of a query log."""

    partitions: tuple[Partition, ...]
    left_out: tuple[str, ...]
    """Files of the named folders that are not read: empty, or of an extension that says nothing."""


def find_backlog(log: QueryLogConfig) -> Backlog:
    """Find the backlog's files and check what can be checked without reading their rows.

    Raises:
        ConfigError: no file, a file that is not what its name says, a column that is missing or
            has another type.
    """
    paths = [log.path] if isinstance(log.path, str) else log.path
    files: dict[str, fs.FileInfo] = {}
    left_out: set[str] = set()
    try:
        for path in paths:
            taken, left = files_at(path, log.format)
            files |= taken
            left_out.update(left)
    except OSError as error:
        raise ConfigError(
            f"queries.path: {', '.join(paths)} cannot be listed: {error}. Correct the address or "
            "the credentials in the environment"
        ) from None
    urls = sorted(files)
    with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
        found = list(pool.map(lambda url: _groups(url, log), urls))
    flat = [(url, *group) for url, groups in zip(urls, found, strict=True) for group in groups]
    if not flat:
        raise ConfigError(f"queries.path: {', '.join(paths)} holds no rows: nothing to do")
    partitions = (
        Partition(n, url, group, rows, files[url].size, files[url].mtime_ns or 0)
        for n, (url, group, rows) in enumerate(flat)
    )
    return Backlog(tuple(partitions), tuple(sorted(left_out - files.keys())))


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

    Raises:
        ConfigError: the file is damaged, or gone.
    """
    filesystem, path = filesystem_of(partition.url)
    read = _read_lines if _format(partition.url, log) == "openai_batch" else _read_group
    row = 0
    try:
        for table in read(filesystem, path, partition, log, batch_rows):
            numbers = pa.array(range(row, row + table.num_rows), pa.int64())
            yield table.append_column("row", numbers)
            row += table.num_rows
    except _UNREADABLE as error:
        group = "" if partition.row_group is None else f", row group {partition.row_group}"
        raise ConfigError(
            f"{partition.url}{group}: cannot be read after row {row:,}: {_one_line(error)}. "
            f"{_REMEDY}"
        ) from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


def _format(url: str, log: QueryLogConfig) -> str:
    ending = extension(url)
    if log.format is None and ending is None:
        raise ConfigError(
            f"{url}: its name does not say what it is ({', '.join(FORMATS)}): set queries.format "
            "to parquet or openai_batch"
        )
    return log.format or FORMATS[ending or ""]


def _groups(url: str, log: QueryLogConfig) -> list[tuple[int | None, int | None]]:
    """Row group and rows of each partition of a file that has any."""
    filesystem, path = filesystem_of(url)
    if _format(url, log) == "openai_batch":
        _check_lines(url, filesystem, path, log)
        return [(None, None)]
    try:
        with filesystem.open_input_file(path) as file:
            footer = pq.ParquetFile(file)
            _check_columns(url, footer.schema_arrow, log)
            metadata = footer.metadata
    except pa.ArrowInvalid as error:
        raise ConfigError(f"{url} is no Parquet file: {_one_line(error)}. {_REMEDY}") from None
    except _UNREADABLE as error:
        raise ConfigError(f"{url}: cannot be read: {_one_line(error)}. {_REMEDY}") from None
    sizes = [(g, metadata.row_group(g).num_rows) for g in range(metadata.num_row_groups)]
    return [(group, rows) for group, rows in sizes if rows]


def _check_lines(url: str, filesystem: fs.FileSystem, path: str, log: QueryLogConfig) -> None:
    """It begins as JSONL does, and no columns are named, of which it has none."""
    if log.columns:
        raise ConfigError(
            f"queries.columns names columns, and {url} is JSONL of OpenAI's Batch format, which "
            "has none: leave queries.columns out, or set queries.path to Parquet files only"
        )
    try:
        with _open_lines(filesystem, path) as stream:
            start = stream.read(_BUFFER_BYTES)
    except _UNREADABLE as error:
        raise ConfigError(f"{url}: cannot be read: {_one_line(error)}. {_REMEDY}") from None
    foreign = next((kind for magic, kind in _FOREIGN.items() if start.startswith(magic)), None)
    if foreign is None and b"\0" in start:
        foreign = "binary or UTF-16"
    if foreign is None and start.removeprefix(_BOM).lstrip().startswith(b"["):
        foreign = "one JSON array"
    if foreign:
        raise ConfigError(
            f"{url} is no JSONL but {foreign}: it takes UTF-8 text with one JSON object a line. "
            f"{_REMEDY}"
        )


def _check_columns(url: str, schema: pa.Schema, log: QueryLogConfig) -> None:
    """Every mapped column is there, what is needed is there, and each has a type that we read."""
    for ours, theirs in log.columns.items():
        if ours not in COLUMNS:
            raise ConfigError(_unknown("queries.columns", ours, COLUMNS))
        if theirs not in schema.names:
            raise ConfigError(_unknown(f"{url}, queries.columns.{ours}", theirs, schema.names))
    names = wanted(schema.names, log.columns)
    twice = sorted(name for name in names.values() if schema.names.count(name) > 1)
    if twice:
        raise ConfigError(
            f"{url} has more than one column {twice[0]!r}: rename all but one, or map another "
            "column by queries.columns"
        )
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
            batch_size=min(batch_rows, _rows_at_once(footer, partition.row_group)),
            row_groups=[partition.row_group],
            columns=list(names.values()),
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
    with _open_lines(filesystem, path) as stream:
        batch: list[bytes] = []
        held_bytes = 0
        for number, line in enumerate(io.BufferedReader(stream, _BUFFER_BYTES)):
            text = line.removeprefix(_BOM) if number == 0 else line
            if not text.strip():
                continue
            batch.append(text)
            held_bytes += len(text)
            if len(batch) == batch_rows or held_bytes >= BATCH_BYTES:
                yield pa.table({LINE: pa.array(batch, pa.binary())})
                batch, held_bytes = [], 0
        if batch:
            yield pa.table({LINE: pa.array(batch, pa.binary())})


def _open_lines(filesystem: fs.FileSystem, path: str) -> pa.NativeFile:
    compression = "gzip" if path.endswith(".gz") else None
    return filesystem.open_input_stream(path, compression=compression)


def _rows_at_once(footer: pq.ParquetFile, row_group: int | None) -> int:
    """So many rows of a group have `BATCH_BYTES`, as its footer says: the same at every start."""
    group = footer.metadata.row_group(row_group)
    mean_bytes = group.total_byte_size / max(1, group.num_rows)
    return max(1, int(BATCH_BYTES / max(1.0, mean_bytes)))
