"""All figures of a router: of each pool, overall, by source and by domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial

import numpy as np
import orjson
from pydantic import JsonValue

from moa.config import PolicyConfig
from moa.evaluation.calibration import Calibration, calibration
from moa.evaluation.frontier import SWEEP_POINTS, sweep
from moa.evaluation.gate import Gate, GateConfig, gate, worth_it
from moa.evaluation.judged import Bools, Floats, Judged
from moa.evaluation.left_out import LeftOut
from moa.evaluation.metrics import Curves, Metrics, curves, masks, metrics
from moa.evaluation.robustness import Robustness
from moa.evaluation.traffic import TrafficEvaluation
from moa.evaluation.verdict import CheckVerdict, PoolVerdict, Verdict


@dataclass(frozen=True, slots=True)
class Settings:
    """How figures are made, whatever they are of."""

    policy: PolicyConfig
    regret_at: tuple[float, ...] = ()
    sweep_points: int = SWEEP_POINTS
    replicates: int = 1000
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Graded:
    """Queries that at least one model has a grade on, for the calibration."""

    models: tuple[str, ...]
    domains: tuple[str, ...]
    """Shape (n,)."""
    grade: Floats
    """NaN where missing, shape (n, m)."""
    expected_grade: Floats
    """Shape (n, m)."""


@dataclass(frozen=True, slots=True)
class PoolEvaluation:
    """One pool."""

    name: str
    pool: tuple[str, ...]
    verdict: str
    """Is routing worth it here? One sentence."""
    metrics: Metrics
    curves: Curves
    by_source: Mapping[str, Metrics]
    by_domain: Mapping[str, Metrics]
    gate: Gate
    robustness: Robustness | None = None
    left_out: tuple[LeftOut, ...] = ()


@dataclass(frozen=True, slots=True)
class Basis:
    """What the figures rest on."""

    router: str
    """Version."""
    data: str
    """Which queries, in words."""
    prices_of: str
    """The day of the price list."""
    prices: str
    """Version and sources, in words."""
    policy: str
    """The configured one, in words."""
    best_constants: Mapping[str, str]
    """Pool → where its best constant comes from."""
    notes: tuple[str, ...] = ()
    taught: int = 0
    """Of the queries, those that the router was fitted on."""
    current: str | None = None
    """Version of the router in use; `None` without one."""
    data_sha256: str = ""
    """Of the queries' ids, grades and propensities."""
    made_at: datetime = field(default_factory=partial(datetime.now, UTC))


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything on the page."""

    title: str
    basis: Basis
    settings: Settings
    pools: tuple[PoolEvaluation, ...]
    calibration: tuple[Calibration, ...]
    """Per model, on all queries that it has a grade on."""
    calibration_by_domain: Mapping[str, tuple[Calibration, ...]] = field(default_factory=dict)
    traffic: tuple[TrafficEvaluation, ...] = ()
    """Pools on logged traffic, where mostly one model has answered a query."""

    @property
    def passed(self) -> bool:
        """Whether every pool's gate is, on queries that the router was not fitted on."""
        return not self.basis.taught and all(gate.passed for _, gate in self.gates)

    @property
    def gates(self) -> tuple[tuple[str, Gate], ...]:
        """Each pool's name, on logged traffic with that said, and its gate."""
        recorded = ((one.name, one.gate) for one in self.pools)
        logged = ((f"{one.name} on logged traffic", one.gate) for one in self.traffic)
        return (*recorded, *logged)

    def json(self) -> bytes:
        """All figures. What is not defined is null."""
        document = {"passed": self.passed, "evaluation": _plain(self)}
        return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS)

    def verdict(self) -> Verdict:
        """The verdict alone: what a pipeline reads, and a promotion rests on."""
        said = [*(one.verdict for one in self.pools), *(one.verdict for one in self.traffic)]
        pools = {
            name: PoolVerdict(
                passed=found.passed,
                verdict=sentence,
                checks=[CheckVerdict(**asdict(check)) for check in found.checks],
            )
            for (name, found), sentence in zip(self.gates, said, strict=True)
        }
        return Verdict(
            passed=self.passed,
            router=self.basis.router,
            current=self.basis.current,
            data=self.basis.data,
            data_sha256=self.basis.data_sha256,
            made_at=self.basis.made_at,
            taught=self.basis.taught,
            pools=pools,
        )


def evaluate_pool(
    name: str,
    judged: Judged,
    settings: Settings,
    *,
    asked: GateConfig | None = None,
    robust: Robustness | None = None,
    strangers: Sequence[LeftOut] = (),
    calibrations: Sequence[Calibration] = (),
) -> PoolEvaluation:
    """Measure one pool.

    Args:
        name: of the pool.
        judged: its queries, at least one.
        settings: how figures are made.
        asked: thresholds; by default nothing is asked.
        robust: what `robustness` found, if it was looked at.
        strangers: what `left_out` found, if it was looked at.
        calibrations: of the models, for the gate.
    """
    policy, seed, replicates = settings.policy, settings.seed, settings.replicates
    swept = sweep(judged, policy, points=settings.sweep_points)

    def some(mask: Bools) -> Metrics:
        return metrics(
            judged.only(mask),
            swept.only(mask),
            policy,
            regret_at=settings.regret_at,
            seed=seed,
            replicates=replicates,
        )

    overall = some(np.ones(judged.queries, bool))
    price = policy.willingness_to_pay
    mine = [one for one in calibrations if one.model in judged.pool]
    return PoolEvaluation(
        name=name,
        pool=judged.pool,
        verdict=worth_it(overall, None if price is None else float(price)),
        metrics=overall,
        curves=curves(judged, swept, seed=seed, replicates=replicates),
        by_source={source: some(mask) for source, mask in masks(judged.sources).items()},
        by_domain={domain: some(mask) for domain, mask in masks(judged.domains).items()},
        gate=gate(asked or GateConfig(), overall, mine, robust, strangers),
        robustness=robust,
        left_out=tuple(strangers),
    )


def calibrations(graded: Graded, settings: Settings) -> tuple[Calibration, ...]:
    """Each model that has a grade."""
    found = []
    for column, model in enumerate(graded.models):
        known = np.isfinite(graded.grade[:, column])
        if known.any():
            found.append(
                calibration(
                    model,
                    graded.expected_grade[known, column],
                    graded.grade[known, column],
                    seed=settings.seed,
                    replicates=settings.replicates,
                )
            )
    return tuple(found)


def calibrations_by_domain(
    graded: Graded, settings: Settings
) -> dict[str, tuple[Calibration, ...]]:
    """Each model in each domain."""
    return {
        domain: calibrations(
            replace(
                graded,
                domains=(domain,) * int(mask.sum()),
                grade=graded.grade[mask],
                expected_grade=graded.expected_grade[mask],
            ),
            settings,
        )
        for domain, mask in masks(graded.domains).items()
    }


def _plain(value: object) -> JsonValue:
    """As JSON holds it."""
    text = orjson.dumps(
        value,
        default=lambda one: one.model_dump(mode="json"),
        option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY,
    )
    document: JsonValue = orjson.loads(text)
    return document
