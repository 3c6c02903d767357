"""Who is given how much of a backlog: by shares, or as a run has it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from moa.catalog import LANES, Lane, Model
from moa.decisions.planned import with_spill
from moa.errors import ConfigError
from moa.pipeline.sizing_config import ShareEntry, SizeRunConfig
from moa.planning.totals import Totals
from moa.prices import PriceTable
from moa.storage.merged_run import MergedRun
from moa.storage.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class Workload:
    """What a backlog is made of."""

    lanes: tuple[Lane, ...]
    totals: Callable[[int], Totals]
    """Of so many queries, shape (models, lanes)."""
    queries: int | None
    """That the run or the log has; `None` of a mix."""
    source: str
    """As a phrase."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Who may answer, and at what prices."""

    models: tuple[Model, ...]
    prices: PriceTable

    @property
    def names(self) -> list[str]:
        """The catalog ids."""
        return [model.id for model in self.models]

    def number(self, name: str, *, where: str) -> int:
        """Of a catalog id.

        Raises:
            ConfigError: it is not in the pool.
        """
        if name not in self.names:
            raise ConfigError(
                f"{where} has {name!r}, not in the job's pool {self.names}: add it to `pool` "
                "there, or leave it out here"
            )
        return self.names.index(name)

    def usd(self, name: str, lane: Lane, input_tokens: float, output_tokens: float) -> float:
        """What a call of so many tokens is expected to cost; of a batch, part of whose queries is
        bought live in the end, with that.
        """
        tokens = np.array([[input_tokens]]), np.array([[output_tokens]])
        usd = float(self.prices.expected_cost_usd([name], lane, *tokens)[0, 0])
        if lane != "batch":
            return usd
        return with_spill(usd, self.usd(name, "live", input_tokens, output_tokens))


class Sums(NamedTuple):
    """Of one model in one lane."""

    model: str
    lane: Lane
    queries: float
    input_tokens: float
    output_tokens: float
    usd: float | None = None
    """`None`: by the prices."""


def by_mix(config: SizeRunConfig, pool: Pool) -> Workload:
    """A mix of given shares.

    Raises:
        ConfigError: a model that is not in the pool, or not sold in a lane.
    """
    rows = [_sums_of(one, config) for one in config.mix]
    for one in rows:
        model = pool.models[pool.number(one.model, where="mix")]
        if one.lane not in model.lanes:
            raise ConfigError(
                f"mix: {model.id} is sold {', '.join(model.lanes)} by the catalog, not {one.lane}: "
                "correct the lane, or `lanes` in the catalog"
            )
    return _by_sums(rows, pool, None, "shares as given")


def _sums_of(one: ShareEntry, config: SizeRunConfig) -> Sums:
    tokens_in = config.input_tokens if one.input_tokens is None else one.input_tokens
    tokens_out = config.output_tokens if one.output_tokens is None else one.output_tokens
    return Sums(one.model, one.lane, one.share, one.share * tokens_in, one.share * tokens_out)


def _by_sums(rows: Sequence[Sums], pool: Pool, queries: int | None, source: str) -> Workload:
    """Of what is known by sums only; they are of one query each where `queries` is `None`."""
    given = {one.lane for one in rows}
    lanes = tuple(lane for lane in LANES if lane in given)
    totals = Totals(len(pool.models), len(lanes))
    for one in rows:
        if not one.queries:
            continue
        number = pool.number(one.model, where=source)
        mean_in, mean_out = one.input_tokens / one.queries, one.output_tokens / one.queries
        whole = pool.usd(one.model, one.lane, mean_in, mean_out) * one.queries
        for_input = pool.usd(one.model, one.lane, mean_in, 0.0) * one.queries
        usd = whole if one.usd is None else one.usd
        totals.give(
            number, lanes.index(one.lane),
            queries=one.queries, input_tokens=one.input_tokens, output_tokens=one.output_tokens,
            usd=usd, output_usd=min(usd, whole - for_input),
        )  # fmt: skip
    return Workload(lanes, lambda number: totals.scaled(number / (queries or 1)), queries, source)


def by_run(folder: str, pool: Pool) -> Workload:
    """As a run has it: by what was used, if it has finished; else by its decisions or its plan.

    Raises:
        ConfigError: nothing was decided there, or it cannot be read.
    """
    try:
        found, source = _sums_in(RunFolder(folder), folder)
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"run: {folder} cannot be read: {error}: name a run's folder") from error
    if not found:
        raise ConfigError(
            f"run: {folder} has no outcomes, plan or decisions: name a run that was started, or "
            "planned by --plan-only"
        )
    return _by_sums(found, pool, round(sum(one.queries for one in found)), source)


def _sums_in(run: RunFolder, folder: str) -> tuple[list[Sums], str]:
    if run.manifest() is not None:
        return _summed(_outcomes(run)), f"outcomes of {folder}"
    if run.decided_parts():
        return _summed(_decisions(run)), f"decisions of {folder}"
    return _planned(run), f"plan of {folder}"


def _planned(run: RunFolder) -> list[Sums]:
    names = ("model", "lane", "queries", "input_tokens", "output_tokens", "cost_usd")
    rows = [row for plan in run.plans()[-1:] for row in plan["forecast"]["rows"]]
    return [Sums(*(row[name] for name in names)) for row in rows]


def _outcomes(run: RunFolder) -> Iterator[Sums]:
    for table in MergedRun(run).outcomes():
        asked = table.filter(pc.is_null(table["same_as"]))
        yield from _grouped(asked, "input_tokens", "output_tokens", "cost_usd")


def _decisions(run: RunFolder) -> Iterator[Sums]:
    tokens = ["expected_input_tokens", "expected_output_tokens"]
    for part in run.decided_parts():
        yield from _grouped(run.read_decisions(part, columns=["model", "lane", *tokens]), *tokens)


def _grouped(table: pa.Table, *columns: str) -> Iterator[Sums]:
    """Sums of tokens and, if there, USD of one table, by model and lane."""
    answered = table.filter(pc.is_valid(table["model"])).select(["model", "lane", *columns])
    sums = [("model", "count"), *((name, "sum") for name in columns)]
    for row in answered.group_by(["model", "lane"]).aggregate(sums).to_pylist():
        amounts = (float(row[f"{name}_sum"]) for name in columns)
        yield Sums(row["model"], row["lane"], row["model_count"], *amounts)


def _summed(parts: Iterable[Sums]) -> list[Sums]:
    """Of tables that are read one after the other, so that a large run is never held."""
    sums: dict[tuple[str, Lane], Sums] = {}
    for one in parts:
        before = sums.get((one.model, one.lane))
        if before is not None:
            usd = None if one.usd is None or before.usd is None else one.usd + before.usd
            one = one._replace(
                queries=one.queries + before.queries,
                input_tokens=one.input_tokens + before.input_tokens,
                output_tokens=one.output_tokens + before.output_tokens,
                usd=usd,
            )
        sums[one.model, one.lane] = one
    return [sums[key] for key in sorted(sums)]
