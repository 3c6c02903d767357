"""The first look at a partition: what its rows are called, and what they ask."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from moa.config import QueryLogConfig
from moa.storage.duplicates import Scan, hashes
from moa.storage.prepare import Row, rows_of
from moa.storage.query_log import Partition, read_partition

_BATCH_ROWS = 2048


def scan(partition: Partition, log: QueryLogConfig) -> Scan:
    """Read a partition once, as a stream, and keep its hashes."""
    ids, requests, names = [], [], []
    for table in read_partition(partition, log, batch_rows=_BATCH_ROWS):
        rows = list(rows_of(table))
        ids.append(hashes(row.query_id or "" for row in rows))
        requests.append(hashes(_asked(rows, table)))
        if log.dedupe:
            names.append(pa.array([row.query_id for row in rows], pa.string()))
    return Scan(
        partition.number,
        np.concatenate(ids) if ids else hashes([]),
        np.concatenate(requests) if requests else hashes([]),
        pa.concat_arrays(names) if log.dedupe else None,
    )


def _asked(rows: list[Row], table: pa.Table) -> Iterator[str]:
    """What makes two rows equal: the request, and the models that may answer it."""
    if "allowed_models" not in table.column_names:
        yield from ("" if row.defect else row.request for row in rows)
        return
    for row, models in zip(rows, table.column("allowed_models").to_pylist(), strict=True):
        allowed = "" if models is None else "\n".join(sorted(set(models)))
        yield "" if row.defect else f"{row.request}\n{allowed}"
