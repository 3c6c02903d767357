"""Queries that every model of a pool has answered, beside what a router expected of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from moa.catalog import Limits, Model
from moa.config import PolicyConfig
from moa.planning.policy import Candidates, Decisions, decide

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

QUALITY_ALONE = Decimal(1_000_000)
"""USD per unit of grade at which no price of a call counts any more, but between equal grades."""


@dataclass(frozen=True, slots=True)
class Judged:
    """n queries and the m models of a pool, each of which has answered each query."""

    pool: tuple[str, ...]
    """Catalog ids."""
    sources: tuple[str, ...]
    """Where each query is from, shape (n,)."""
    domains: tuple[str, ...]
    """What each query is about, shape (n,)."""
    grade: Floats
    """Measured, in [0, 1], shape (n, m)."""
    cost_usd: Floats
    """Recorded tokens times the price, shape (n, m)."""
    expected_grade: Floats
    """By the router, in [0, 1], shape (n, m)."""
    expected_cost_usd: Floats
    """By the router's token counts and the same prices, shape (n, m)."""
    novelty: Floats
    """In [0, 1], shape (n,)."""
    best_constant: int
    """The place in the pool of the best single model on training data."""

    def __post_init__(self) -> None:
        shape = (len(self.sources), len(self.pool))
        for name in ("grade", "cost_usd", "expected_grade", "expected_cost_usd"):
            values = getattr(self, name)
            if values.shape != shape:
                raise ValueError(f"{name} has shape {values.shape}, not {shape}")
            if not np.isfinite(values).all():
                raise ValueError(f"{name} has holes: leave out queries that a model did not answer")
        if len(self.domains) != shape[0] or self.novelty.shape != shape[:1]:
            raise ValueError(f"domains and novelty are of {shape[0]} queries, like sources")

    @property
    def queries(self) -> int:
        """How many there are."""
        return len(self.sources)

    def only(self, mask: Bools) -> Judged:
        """Some of the queries, as a mask of shape (n,)."""
        rows = np.flatnonzero(mask).tolist()
        return replace(
            self,
            sources=tuple(self.sources[row] for row in rows),
            domains=tuple(self.domains[row] for row in rows),
            grade=self.grade[rows],
            cost_usd=self.cost_usd[rows],
            expected_grade=self.expected_grade[rows],
            expected_cost_usd=self.expected_cost_usd[rows],
            novelty=self.novelty[rows],
        )

    def of_models(self, models: Sequence[int]) -> Judged:
        """The same queries and fewer models, the best constant among them, by place in the pool."""
        columns = list(models)
        return replace(
            self,
            pool=tuple(self.pool[column] for column in columns),
            grade=self.grade[:, columns],
            cost_usd=self.cost_usd[:, columns],
            expected_grade=self.expected_grade[:, columns],
            expected_cost_usd=self.expected_cost_usd[:, columns],
            best_constant=columns.index(self.best_constant),
        )

    def decide(self, policy: PolicyConfig) -> Decisions:
        """What a job with this policy would decide, by the very code that it runs.

        Every model can take every query here, since each has.
        """
        able = np.ones(self.grade.shape, bool)
        candidates = Candidates(
            models=tuple(map(_named, self.pool)),
            lanes=("live",),
            fits=able,
            able=able,
            allowed=able,
            buyable=able[:, :, None],
            good=able,
        )
        default = policy.default_model or self.pool[self.best_constant]
        return decide(
            candidates,
            self.expected_grade,
            self.expected_cost_usd,
            self.novelty,
            policy,
            default,
        )

    def of_chosen(self, values: Floats, chosen: Ints) -> Floats:
        """Of (n, m) values those of one model per query; `chosen` is (…, n), and so is the result.

        Args:
            values: for instance `grade`.
            chosen: places in the pool.
        """
        return values[np.arange(self.queries), chosen]


def at(policy: PolicyConfig, willingness_to_pay: Decimal) -> PolicyConfig:
    """The policy with another price of quality; all else as it was given."""
    changed = {"willingness_to_pay": willingness_to_pay, "quality_floor": None}
    return PolicyConfig.model_validate({**policy.model_dump(), **changed})


def bold(policy: PolicyConfig) -> PolicyConfig:
    """The policy without abstention."""
    return policy.model_copy(update={"max_novelty": 1.0})


def willingnesses(points: int) -> list[Decimal]:
    """What a frontier is drawn through: 0, then a thousandth of a cent to ten dollars in equal
    steps of the logarithm, then quality alone."""
    values = np.geomspace(1e-5, 10, points).tolist()
    return [Decimal(0), *(Decimal(f"{value:.6g}") for value in values), QUALITY_ALONE]


def _named(model_id: str) -> Model:
    """A model of which only the id counts."""
    return Model(
        id=model_id,
        provider=model_id.partition("/")[0],
        api_name=model_id,
        context_window=1,
        max_output_tokens=1,
        abilities=frozenset(),
        limits=Limits(),
        price_provider="",
        price_ref="",
    )
