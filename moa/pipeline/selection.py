"""Which dead letters are sent again, and to whom. Pure: tables of one part in, tables out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from moa.catalog import Model
from moa.decisions.deciding import LIVE, matrix, wishes
from moa.planning.policy import REDRIVE, Candidates
from moa.prices import PriceTable
from moa.schema import ROUTING_DECISIONS, SCORED_QUERIES, agree

NO_REQUEST = "the row is no valid request: correct it in the log, and answer it in another run"
NOT_NAMED = "not asked for by --reason"
NO_MODEL = "no model of the pool can take it: name one that can by --to-model"
NOT_LIVE = "its allowed_lanes forbid live, and a redrive buys live only: answer it in another run"

_PER_MODEL = ("expected_input_tokens", "expected_output_tokens", "most_output_tokens")
QUERY_COLUMNS = (
    "query_id", "defect", "followers", "max_output_tokens", "abilities", "allowed_models",
    "allowed_lanes", "min_grade", "expected_grade", *_PER_MODEL,
)  # fmt: skip
DECISION_COLUMNS = ("query_id", "model", "expected_cost_usd")
"""What a `Selector` has to see of a part to count what is sent; to send it, it must see all."""

Floats = NDArray[np.float64]


@dataclass(slots=True)
class Tally:
    """What becomes of dead letters, in queries; those that share an equal one's answer count."""

    sent: Counter[str] = field(default_factory=Counter)
    """By the reason of the dead letter."""
    models: Counter[str] = field(default_factory=Counter)
    """By the model that is asked first."""
    asked: int = 0
    """Calls that are to be answered: a query and its equal twins are one."""
    expected_usd: float = 0.0
    """Of the models that are asked first."""
    left: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Not sent, by the dead letter's reason and why."""


class Selected(NamedTuple):
    """What is sent again of one part; both tables in the same order."""

    queries: pa.Table
    """`SCORED_QUERIES`."""
    decisions: pa.Table
    """`ROUTING_DECISIONS`."""


@dataclass(frozen=True, slots=True)
class Selector:
    """Dead letters of a part → what of it is sent again."""

    pool: tuple[str, ...]
    """Of the run, in the order of its lists."""
    prices: PriceTable
    reasons: frozenset[str] = frozenset()
    """Empty: whatever the reason."""
    to: Model | None = None
    """Whom to ask; `None`: whom the run has decided on."""

    def __call__(
        self, queries: pa.Table, decisions: pa.Table, letters: pa.Table, tally: Tally
    ) -> Selected:
        """Choose among the dead letters, and count them.

        Args:
            queries: of the run's part, with `QUERY_COLUMNS` at least.
            decisions: of the same rows, with `DECISION_COLUMNS` at least.
            letters: `query_id` and `reason` of those that are dead by now.
            tally: added to.
        """
        dead = pc.is_in(queries.column("query_id"), value_set=letters.column("query_id"))
        queries, decisions = queries.filter(dead), decisions.filter(dead)
        at = pc.index_in(queries.column("query_id"), value_set=letters.column("query_id"))
        reasons = letters.column("reason").take(at).to_pylist()
        why = self._why_left(queries, decisions, reasons)
        go = np.flatnonzero([one is None for one in why])
        if self.to is not None:
            cannot = self._why_unable(queries.take(pa.array(go)), self.to)
            for row, one in zip(go.tolist(), cannot, strict=True):
                why[row] = one
            go = go[[one is None for one in cannot]]
        selected = Selected(queries.take(pa.array(go)), decisions.take(pa.array(go)))
        selected = _live(selected) if self.to is None else self._redirected(selected, self.to)
        self._count(tally, queries, reasons, why, selected)
        return selected

    def _why_left(
        self, queries: pa.Table, decisions: pa.Table, reasons: list[str]
    ) -> list[str | None]:
        """`None` for those that can be sent, whoever is asked."""
        defective = queries.column("defect").is_valid().to_pylist()
        undecided = decisions.column("model").is_null().to_pylist()
        lanes = wishes(queries.column("allowed_lanes"))
        rows = zip(reasons, defective, undecided, lanes, strict=True)
        return [self._why(*one) for one in rows]

    def _why(
        self, reason: str, defective: bool, undecided: bool, lanes: list[str] | None
    ) -> str | None:
        if defective:
            return NO_REQUEST
        if self.reasons and reason not in self.reasons:
            return NOT_NAMED
        if lanes is not None and LIVE not in lanes:
            return NOT_LIVE
        # Not by the reason: another model, named by --to-model, may have failed since.
        if undecided and self.to is None:
            return NO_MODEL
        return None

    def _why_unable(self, queries: pa.Table, model: Model) -> list[str | None]:
        tokens_in, _, most_out = (self._of(model, queries, name) for name in _PER_MODEL)
        can = Candidates.find(
            [model],
            input_tokens=tokens_in,
            output_tokens=most_out,
            max_output_tokens=queries.column("max_output_tokens").to_pylist(),
            abilities=queries.column("abilities").to_pylist(),
            allowed_models=wishes(queries.column("allowed_models")),
            allowed_lanes=wishes(queries.column("allowed_lanes")),
            expected_grade=np.array(self._grade(queries, model), np.float64).reshape(-1, 1),
            min_grade=queries.column("min_grade").to_numpy(),
        )
        masks = {
            "the query does not allow it": can.allowed,
            "it lacks an ability": can.able,
            "its window is too small": can.fits,
            "it is not known to reach the query's min_grade": can.good,
        }
        lacks = [
            [words for words, mask in masks.items() if not mask[row, 0]]
            for row in range(queries.num_rows)
        ]
        return [f"{model.id} cannot take it: {' and '.join(one)}" if one else None for one in lacks]

    def _redirected(self, selected: Selected, model: Model) -> Selected:
        """The same for a job whose only model this is: lists have one value."""
        queries, decisions = selected
        tokens = {name: self._of(model, queries, name) for name in _PER_MODEL}
        limit = queries.column("max_output_tokens").cast(pa.float64()).to_numpy()
        tokens_in = tokens["expected_input_tokens"]
        tokens_out = np.fmin(tokens["expected_output_tokens"], limit[:, None])
        cost = self.prices.expected_cost_usd([model.id], LIVE, tokens_in, tokens_out)
        grade = self._grade(queries, model)
        rows = queries.num_rows
        queries = _replaced(
            queries,
            SCORED_QUERIES,
            {**{name: values.tolist() for name, values in tokens.items()}, "expected_grade": grade},
        )
        return Selected(
            queries,
            _replaced(
                decisions,
                ROUTING_DECISIONS,
                {
                    "model": [model.id] * rows,
                    "provider": [model.provider] * rows,
                    "lane": [LIVE] * rows,
                    "rule": [REDRIVE] * rows,
                    "preferred_model": [model.id] * rows,
                    "propensity": [1.0] * rows,
                    "fallbacks": [[]] * rows,
                    "expected_grade": grade,
                    "expected_cost_usd": cost.tolist(),
                    "expected_input_tokens": tokens["expected_input_tokens"][:, 0].tolist(),
                    "expected_output_tokens": tokens["expected_output_tokens"][:, 0].tolist(),
                    "price_version": [self.prices.version] * rows,
                },
            ),
        )

    def _of(self, model: Model, queries: pa.Table, name: str) -> Floats:
        """What is expected of a model, shape (n, 1); of one outside the pool, the most of all."""
        values = matrix(queries.column(name), len(self.pool)).astype(np.float64)
        if model.id in self.pool:
            return values[:, [self.pool.index(model.id)]]
        return np.asarray(values.max(axis=1, keepdims=True))

    def _grade(self, queries: pa.Table, model: Model) -> list[list[float]]:
        """Nothing is known of a model outside the pool: no number."""
        if model.id not in self.pool:
            return [[float("nan")]] * queries.num_rows
        grades = matrix(queries.column("expected_grade"), len(self.pool))
        return [[grade] for grade in grades[:, self.pool.index(model.id)].tolist()]

    def _count(
        self,
        tally: Tally,
        queries: pa.Table,
        reasons: list[str],
        why: list[str | None],
        selected: Selected,
    ) -> None:
        """A query counts with those that get its answer."""
        alike = pc.add(pc.list_value_length(queries.column("followers")), 1).to_pylist()
        for reason, left, number in zip(reasons, why, alike, strict=True):
            if left is None:
                tally.sent[reason] += number
            else:
                tally.left[reason, left] += number
        tally.asked += selected.queries.num_rows
        tally.models.update(selected.decisions.column("model").to_pylist())
        tally.expected_usd += self._expected_usd(selected.decisions)

    def _expected_usd(self, decisions: pa.Table) -> float:
        if not decisions.num_rows:
            return 0.0
        models = (self.to.id,) if self.to is not None else self.pool
        costs = matrix(decisions.column("expected_cost_usd"), len(models))
        at = pc.index_in(decisions.column("model"), value_set=pa.array(models)).to_numpy()
        return float(costs[np.arange(len(costs)), at].sum())


def _live(selected: Selected) -> Selected:
    """The same, bought at once: whoever has waited for a batch once should not wait again."""
    lanes = {"lane": [LIVE] * selected.decisions.num_rows}
    return selected._replace(decisions=_replaced(selected.decisions, ROUTING_DECISIONS, lanes))


def _replaced(
    table: pa.Table, schema: pa.Schema, columns: Mapping[str, Sequence[object]]
) -> pa.Table:
    """A table of this schema, or of some of its columns, with other values in some columns."""
    schema = pa.schema([field for field in schema if field.name in table.column_names])
    for name, values in columns.items():
        if name not in table.column_names:
            continue
        column = pa.array(values, schema.field(name).type)
        table = table.set_column(table.schema.get_field_index(name), schema.field(name), column)
    return agree(table, schema, where="redrive")
