"""A router in the process that answers, or in one that scores for several of those."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from moa.router.router import Router, Scores
from moa.serving.config import ScoringConfig
from moa.serving.routing import Scored

PROBE = ("What is 2 + 2?",)
"""Any query."""


class Ask(NamedTuple):
    """Queries that one process has scored by another. While one configuration replaces another the
    two may have different pools, so it says for which.
    """

    texts: tuple[str, ...]
    pool: tuple[str, ...]
    """Catalog ids."""


class LocalScorer:
    """Scores in the event loop: a hashing router takes 0.1 ms a query."""

    def __init__(self, router: Router, pool: Sequence[str]) -> None:
        self._router = router
        self._pool = tuple(pool)
        self.version = router.facts.version

    @classmethod
    def load(cls, config: ScoringConfig, pool: Sequence[str]) -> LocalScorer:
        """Read the router and start its backbone; takes a while.

        Raises:
            ArtifactError: it is damaged, or cannot be run here.
            ConfigError: it was not trained on the pool.
        """
        router = Router.load(config.artifact, config.model, config.engine)
        router.facts.check_pool(pool)
        return cls(router, pool)

    async def score(self, texts: Sequence[str]) -> Scored:
        """See `Scorer.score`."""
        return Scored(self._router.score(texts, self._pool), self.version)

    def score_together(self, asks: Sequence[Ask]) -> list[Scored | None]:
        """All of them at once, as far as their pools are equal; `None` for a pool with a model that
        this router was not trained on.

        Raises:
            EngineError: a language model's engine failed; its process should end.
        """
        found: dict[int, Scored] = {}
        for pool in dict.fromkeys(ask.pool for ask in asks):
            if set(pool) <= set(self._router.facts.models):
                of_pool = [number for number, ask in enumerate(asks) if ask.pool == pool]
                texts = [text for number in of_pool for text in asks[number].texts]
                scores = self._router.score(texts, pool)
                ends = accumulate((len(asks[number].texts) for number in of_pool), initial=0)
                for number, (start, end) in zip(of_pool, pairwise(ends), strict=True):
                    mine = Scores(*(part[start:end] for part in scores))
                    found[number] = Scored(mine, self.version)
        return [found.get(number) for number in range(len(asks))]

    def check(self) -> None:
        """Score something: a process whose router does not work is of no use.

        Raises:
            RuntimeError: the scores are no grades.
        """
        check_scores(self._router.score(PROBE, self._pool))


def check_scores(scores: Scores) -> None:
    """Whether they can be scores.

    Raises:
        RuntimeError: they are no grades.
    """
    grade = scores.expected_grade
    if not ((grade >= 0) & (grade <= 1)).all():
        raise RuntimeError("the router gives grades outside of 0 to 1")
