"""A generated query log: Parquet as `jobs/route_batch.py` takes it."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq

ROWS_PER_FILE = 100_000
ROWS_PER_GROUP = 50_000
WORDS = """
how many which of the following numbers is a prime function that returns list sorted by date explain
why integral from zero to one matrix rank graph shortest path email summary translate into French
quarterly report customers refund policy write python regex unit test
"""


def generate(folder: Path, rows: int, *, most_words: int = 120) -> None:
    """Prompts of 5 to `most_words` words, a hundredth of them equal to an earlier one."""
    folder.mkdir()
    random, words = Random(7), WORDS.split()
    for start in range(0, rows, ROWS_PER_FILE):
        numbers = range(start, min(start + ROWS_PER_FILE, rows))
        prompts = [
            " ".join(random.choices(words, k=random.randint(5, most_words))) for _ in numbers
        ]
        prompts[1::100] = prompts[0::100][: len(prompts[1::100])]
        table = pa.table({"query_id": [f"q{n:09d}" for n in numbers], "prompt": prompts})
        pq.write_table(table, folder / f"{start:09d}.parquet", row_group_size=ROWS_PER_GROUP)
