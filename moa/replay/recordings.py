"""What real models answered: prompt and model → completion with its tokens."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from moa.catalog import Wire
from moa.errors import ConfigError
from moa.replay.wire import Answer

SHIPPED = Path(__file__).parents[1] / "recordings"
_ACCOUNTS: dict[Wire, str] = {"openai": "openai", "anthropic": "anthropic", "gemini": "google"}
"""Wire → the first part of the catalog ids that were recorded over it."""

_WORDS = (
    "the answer follows from what was asked and each step can be checked on its own so we begin "
    "with the numbers that are given and end with one that was not while a second look shows that "
    "nothing else was needed and that the order of the steps does not matter for what comes out "
)


def prompt_hash(prompt: str) -> int:
    """xxh3-64 of a prompt."""
    return xxhash.xxh3_64_intdigest(prompt.encode())


def prompt_key(prompt: str) -> str:
    """The hash as the ledger shows it and `Script.queries` takes it: 16 hex digits."""
    return f"{prompt_hash(prompt):016x}"


class Recordings:
    """Completions of the models of a pool, all in memory as Arrow (about 16 MB)."""

    def __init__(self, completions: pa.Table, prompts: pa.Table, tokens: pa.Table) -> None:
        ids = prompts["query_id"].to_pylist()
        hashes = [prompt_hash(text) for text in prompts["prompt"].to_pylist()]
        by_id = dict(zip(ids, hashes, strict=True))
        self._query_ids = dict(zip(hashes, ids, strict=True))
        models = completions["model"].to_pylist()
        served = completions["served_model"].to_pylist()
        queries = completions["query_id"].to_pylist()
        self._rows = {
            (by_id[query], model): row
            for row, (query, model) in enumerate(zip(queries, models, strict=True))
            if query in by_id
        }
        self._served = served
        self._texts = completions["completion"].combine_chunks()
        self._tokens = _usage(tokens, zip(queries, models, strict=True))
        self._models = _names(models, served)

    @classmethod
    def load(cls, folder: Path = SHIPPED) -> Recordings:
        """Read `completions`, `queries` and `graded_outcomes` (`.parquet`) of a folder.

        Raises:
            ConfigError: one of them is missing.
        """
        completions = _read(folder, "completions", None, [])
        recorded = pc.unique(completions["query_id"])
        models = pc.unique(completions["model"])
        prompts = _read(folder, "queries", ["query_id", "prompt"], [("query_id", recorded)])
        tokens = _read(
            folder,
            "graded_outcomes",
            ["query_id", "model", "input_tokens", "output_tokens"],
            [("model", models), ("query_id", recorded)],
        )
        return cls(completions, prompts, tokens)

    def model_named(self, provider: Wire, api_name: str) -> str | None:
        """The catalog id behind a name on the wire; `None` when it was not recorded."""
        return self._models.get((_ACCOUNTS[provider], api_name))

    def query_id(self, prompt: int) -> str | None:
        """The query behind a prompt's hash."""
        return self._query_ids.get(prompt)

    def answer(self, prompt: int, model: str) -> Answer | None:
        """What `model` (a catalog id) answered to the prompt of this hash."""
        row = self._rows.get((prompt, model))
        if row is None:
            return None
        input_tokens, output_tokens = self._tokens[row]
        text = self._texts[row].as_py()
        return Answer(text, self._served[row], input_tokens, output_tokens)


def invented(prompt: str, hashed: int, api_name: str) -> Answer:
    """An answer to a prompt that nobody recorded: equal for equal prompt and model.

    16 to 143 output tokens, four characters each; the prompt's length / 4 as input tokens.
    """
    number = xxhash.xxh3_64_intdigest(api_name.encode(), hashed)
    output_tokens = 16 + number % 128
    start = (number >> 32) % len(_WORDS)
    length = output_tokens * 4
    text = (_WORDS * (2 + length // len(_WORDS)))[start : start + length]
    return Answer(text, api_name, max(1, len(prompt) // 4), output_tokens)


def _read(
    folder: Path, name: str, columns: list[str] | None, keep: Iterable[tuple[str, pa.Array]]
) -> pa.Table:
    path = folder / f"{name}.parquet"
    if not path.is_file():
        raise ConfigError(
            f"{path}: no such file; a folder of recordings has completions.parquet, "
            "queries.parquet and graded_outcomes.parquet"
        )
    table = pq.read_table(path, columns=columns)
    for column, values in keep:
        table = table.filter(pc.is_in(table[column], value_set=values))
    return table


def _usage(tokens: pa.Table, wanted: Iterable[tuple[str, str]]) -> list[tuple[int, int]]:
    """Input and output tokens of each completion; 0 where nobody counted them."""
    names = ("query_id", "model", "input_tokens", "output_tokens")
    columns = [tokens[name].to_pylist() for name in names]
    known = {
        (query, model): (counted_in or 0, counted_out or 0)
        for query, model, counted_in, counted_out in zip(*columns, strict=True)
    }
    return [known.get(pair, (0, 0)) for pair in wanted]


def _names(models: list[str], served: list[str]) -> dict[tuple[str, str], str]:
    """(account, name on the wire) → catalog id: the id's last part, and every served model."""
    names: dict[tuple[str, str], str] = {}
    for model, version in set(zip(models, served, strict=True)):
        account, _, name = model.partition("/")
        names[account, name] = names[account, version] = model
    return names
