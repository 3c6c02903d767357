"""Logged traffic and two routers' scores → what each would have earned on it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moa.errors import ConfigError
from moa.evaluation.config import EvaluateRouterConfig
from moa.evaluation.judged import Bools, Floats, Ints, Judged
from moa.evaluation.off_policy import Logged
from moa.evaluation.robustness import Score, robustness
from moa.evaluation.traffic import Choices, TrafficEvaluation, evaluate_traffic
from moa.evaluation.traffic_gate import TrafficGate
from moa.intervals import Interval
from moa.prices import PriceTable
from moa.router.artifact import Artifact, open_backbone
from moa.router.facts import RouterFacts
from moa.router.router import Router, Scores
from moa.training.dataset import Dataset
from moa.training.judge import LIVE


@dataclass(frozen=True, slots=True)
class InUse:
    """The router that a candidate is compared with."""

    artifact: Artifact | None
    """`None`: no router was ever promoted."""
    scores: Scores | None
    models: tuple[str, ...]
    """Of the scores, in their order: those that it knows of all that are asked for."""


def score_in_use(
    artifact: Artifact | None, data: Dataset, models: Sequence[str], config: EvaluateRouterConfig
) -> InUse:
    """What the router in use expects of the models that it knows. Its engine ends here."""
    if artifact is None:
        return InUse(None, None, ())
    known = tuple(one for one in models if one in artifact.description.models)
    router = Router(artifact, open_backbone(artifact, config.model, config.engine))
    return InUse(artifact, router.score(data.texts, known), known)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Logged queries, scored by a candidate."""

    data: Dataset
    domains: tuple[str, ...]
    scores: Scores
    score: Score
    """By the candidate, of other texts."""
    prices: PriceTable
    in_use: InUse | None
    """`None`: nothing is compared with."""

    def evaluate(
        self,
        name: str,
        pool: Sequence[str],
        asked: TrafficGate,
        config: EvaluateRouterConfig,
        *,
        best_constant: str,
    ) -> TrafficEvaluation:
        """One pool, on the queries that one of its models at least has a grade on, or could have
        had if chance had not sent them elsewhere.

        Raises:
            ConfigError: there is none, or the router in use knows no model of the pool.
        """
        columns = [self.data.models.index(model) for model in pool]
        known = np.isfinite(self._cost(columns)).any(axis=1)
        rows = np.flatnonzero(known | self._elsewhere())
        if not known.any():
            raise ConfigError(
                f"no query of {config.split} in {config.recordings} has a grade and tokens of any "
                f"of {', '.join(pool)}: grade its outcomes, or name another split"
            )
        expected = self._expected(pool, rows, best_constant)
        logged = Logged(
            tuple(pool),
            expected.domains,
            tuple(self.data.groups[row] for row in rows.tolist()),
            self.data.grade[rows][:, columns],
            self._cost(columns)[rows],
            propensity_of(self.data)[rows][:, columns],
        )
        in_use = self.in_use
        choices = Choices(
            expected.decide(config.policy).chosen,
            expected.best_constant,
            self._in_use(expected, rows, config),
            nothing_in_use=in_use is not None and in_use.artifact is None,
        )
        return evaluate_traffic(
            name, logged, choices, expected.expected_grade, config.policy,
            asked=asked,
            flip_rate=self._flip_rate(expected, rows, config),
            most_weight=config.most_weight, seed=config.seed, replicates=config.replicates,
        )  # fmt: skip

    def _elsewhere(self) -> Bools:
        """Queries that chance, or a failure, sent to a model of another pool or of none."""
        weight = np.nan_to_num(np.ones(1) if self.data.weight is None else self.data.weight)
        unknown = np.isnan(self.data.grade).all(axis=1)
        return np.asarray(unknown | (weight > 1).any(axis=-1))

    def _cost(self, columns: Sequence[int]) -> Floats:
        """In USD by the tokens that were used, NaN where they or the grade are not known."""
        pool = [self.data.models[column] for column in columns]
        cost = self.prices.expected_cost_usd(
            pool, LIVE, self.data.input_tokens[:, columns], self.data.output_tokens[:, columns]
        )
        return np.where(np.isfinite(self.data.grade[:, columns]), cost, np.nan)

    def _expected(self, pool: Sequence[str], rows: Ints, best_constant: str) -> Judged:
        columns = [self.data.models.index(model) for model in pool]
        return _as_expected(
            self, self.scores, columns, pool, rows, best_constant=list(pool).index(best_constant)
        )

    def _in_use(self, expected: Judged, rows: Ints, config: EvaluateRouterConfig) -> Ints | None:
        """What the router in use would choose, among the models of the pool that it knows."""
        if self.in_use is None or self.in_use.artifact is None or self.in_use.scores is None:
            return None
        known = [model for model in expected.pool if model in self.in_use.models]
        if not known:
            raise ConfigError(
                f"current: the router {self.in_use.artifact.version} knows none of "
                f"{', '.join(expected.pool)}: name one that was trained on some of them"
            )
        best = RouterFacts.of(self.in_use.artifact).best_constant(known).model
        judged = _as_expected(
            self,
            self.in_use.scores,
            [self.in_use.models.index(model) for model in known],
            known,
            rows,
            best_constant=known.index(best),
        )
        places = np.array([expected.pool.index(model) for model in known])
        return np.asarray(places[judged.decide(config.policy).chosen])

    def _flip_rate(
        self, expected: Judged, rows: Ints, config: EvaluateRouterConfig
    ) -> Interval | None:
        if not config.perturb:
            return None
        texts = [self.data.texts[row] for row in rows.tolist()]
        found = robustness(
            expected, texts, self.score, self.prices, config.policy,
            seed=config.seed, replicates=config.replicates,
        )  # fmt: skip
        return found.overall.rate


def _as_expected(
    traffic: Traffic,
    scores: Scores,
    columns: Sequence[int],
    pool: Sequence[str],
    rows: Ints,
    *,
    best_constant: int,
) -> Judged:
    """Queries of which only the decisions count: what is expected stands in for what was measured.

    Args:
        traffic: whose queries.
        scores: of all of them.
        columns: of the scores, for each model of the pool.
        pool: catalog ids.
        rows: the queries.
        best_constant: its place in the pool.
    """

    def cells(values: np.ndarray) -> Floats:
        return values[rows][:, columns].astype(np.float64)

    grade = cells(scores.expected_grade)
    cost = traffic.prices.expected_cost_usd(
        pool, LIVE, cells(scores.expected_input_tokens), cells(scores.expected_output_tokens)
    )
    return Judged(
        pool=tuple(pool),
        sources=tuple(traffic.data.sources[row] for row in rows.tolist()),
        domains=tuple(traffic.domains[row] for row in rows.tolist()),
        grade=grade,
        cost_usd=cost,
        expected_grade=grade,
        expected_cost_usd=cost,
        novelty=scores.novelty.astype(np.float64)[rows],
        best_constant=best_constant,
    )


def propensity_of(data: Dataset) -> Floats:
    """The probability with which each answer came to be known, 1 where nothing says otherwise; if
    weights have a bound, a rarer one counts as one over that. Shape (n, m)."""
    return np.ones(data.grade.shape) if data.weight is None else 1 / data.weight


def data_hash(data: Dataset) -> str:
    """Of what a verdict rests on: ids, models, grades, propensities; 64 hex digits."""
    found = hashlib.sha256("\n".join((*data.models, "", *data.query_ids)).encode())
    for values in (data.grade, data.input_tokens, data.output_tokens, propensity_of(data)):
        found.update(np.ascontiguousarray(values).tobytes())
    return found.hexdigest()
