"""A model drawn at random for some queries, with known probabilities: what logs must have so that
a router can learn from them what it would not have tried. Pure.

What is drawn depends on the seed and the query's id alone, so that a rerun and a restart decide
alike, however the backlog is cut. One hash says whether a query is explored, another one by whom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xxhash

from moa.planning.policy import EXPLORED, NOBODY, Bools, Decisions, Floats, Ints

_BITS = 53
"""Of a hash that count: as many as a double holds, so that none is rounded up to 1."""
_WHETHER, _WHOM = 1, 2
"""Seeds of the two hashes, so that they have nothing to do with each other."""


@dataclass(frozen=True, slots=True)
class Exploration:
    """How queries are explored."""

    share: float
    """Of the queries that several models can take, in (0, 1]."""
    seed: int
    max_usd_per_query: float | None = None
    """A model that is expected to cost more is not drawn."""

    def options(self, can: Bools, expected_cost_usd: Floats) -> Bools:
        """Which models may be drawn for which queries, (n, m); of a single one nothing is drawn.

        Args:
            can: whether a model can take a query, (n, m).
            expected_cost_usd: in the live lane, (n, m).
        """
        if self.max_usd_per_query is None:
            may = can
        else:
            may = can & (np.asarray(expected_cost_usd) <= self.max_usd_per_query)
        return np.asarray(may & (may.sum(axis=1) > 1)[:, None])

    def draw(self, query_ids: Sequence[str], options: Bools) -> Ints:
        """The model of each query that is explored, each option as likely; else `NOBODY`."""
        drawn = np.full(len(query_ids), NOBODY)
        explored = self._hashes(query_ids, _WHETHER) < self.share
        rows = np.flatnonzero(explored & options.any(axis=1))
        counts = options[rows].sum(axis=1)
        places = (self._hashes([query_ids[row] for row in rows.tolist()], _WHOM) * counts).astype(
            np.intp
        )
        ranks = np.cumsum(options[rows], axis=1) - 1
        drawn[rows] = ((ranks == places[:, None]) & options[rows]).argmax(axis=1)
        return drawn

    def propensity(self, options: Bools, preferred: Ints, chosen: Ints) -> Floats:
        """The probability with which each query's model was chosen, shape (n,).

        Args:
            options: as drawn from, (n, m).
            preferred: who is asked where nothing is explored, or `NOBODY`.
            chosen: who is asked; 1 where that is nobody.
        """
        counts = options.sum(axis=1)
        rows = np.arange(len(counts))
        drawn = self.share * options[rows, chosen] / np.maximum(counts, 1)
        kept = (1 - self.share) * (chosen == preferred)
        return np.where((counts > 0) & (chosen != NOBODY), drawn + kept, 1.0)

    def _hashes(self, query_ids: Sequence[str], which: int) -> Floats:
        """In [0, 1)."""
        texts = (f"{self.seed}:{one}".encode() for one in query_ids)
        found = (xxhash.xxh3_64_intdigest(text, which) >> (64 - _BITS) for text in texts)
        return np.asarray(np.fromiter(found, np.float64, len(query_ids)) / 2**_BITS)


def explored(decisions: Decisions, drawn: Ints, preferred: Ints) -> Decisions:
    """Decisions with the drawn models in place of the chosen ones. First fallback is who would have
    been asked: a drawn model that is out shall cost a query no detour.

    Args:
        decisions: by the policy, each query for itself.
        drawn: as `Exploration.draw` gives it.
        preferred: who is asked where nothing is explored: the policy's own choice, or a plan's.
    """
    is_drawn = drawn != NOBODY
    chosen = np.where(is_drawn, drawn, preferred)
    ranked = np.column_stack([decisions.chosen, decisions.fallbacks])
    is_chosen = ranked == chosen[:, None]
    is_first = (ranked == preferred[:, None]) & (is_drawn & (preferred != NOBODY))[:, None]
    keys = np.where(is_chosen, 2, np.where(is_first, 0, 1))
    order = np.argsort(keys, axis=1, kind="stable")[:, : ranked.shape[1] - 1]
    fallbacks = np.take_along_axis(ranked, order, axis=1)
    return Decisions(
        chosen=chosen,
        fallbacks=np.where((chosen == NOBODY)[:, None], NOBODY, fallbacks),
        rule=np.where(is_drawn, EXPLORED, decisions.rule),
    )
