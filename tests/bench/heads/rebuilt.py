"""Our own heads with one thing done otherwise, rebuilt from the parts that `fit` is made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moa.router.calibration import log_loss
from moa.router.factors import SHARED, softmax
from moa.router.hashing_backbone import HashingBackbone
from moa.router.surface import _BLANKS, _LINE_ENDS, MOST_BYTES, surface
from moa.training import domains as domain_map
from moa.training import ridge
from moa.training.domains import DomainFit, fit_domain_map
from moa.training.ease import Ease, fit_ease
from moa.training.fit import HEAD_L2, Reading, fit_grade_heads
from moa.training.ridge import fit_experts
from tests.bench.heads.lesson import Answer, Lesson, Quiz, domain_means, probability, timed
from tests.bench.heads.low_rank import RIDGES, factorise, ridge_tables

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is done otherwise; by default nothing."""

    ease: str = "everybody"
    """Whose grades tell how easy a query is: `everybody`, `pool` or `nobody`."""
    rank: int = 0
    """Above 0: so many numbers of a query within its domain instead of its ease alone."""
    looseness: float = domain_map.LOOSENESS
    """0: a map by ridge regression instead."""
    strengths: tuple[float, ...] = ridge.STRENGTHS


class Rebuilt(NamedTuple):
    """Heads, and what they are fed with."""

    foreseen: Floats
    """Factors of the training queries by maps fitted on other folds, shape (n, f)."""
    heads: Floats
    """Shape (f + 1, m)."""
    asked: Floats
    """Factors of the quiz's queries."""

    @property
    def expected(self) -> Floats:
        """Grades of the quiz's queries."""
        return probability(self.asked @ self.heads[:-1] + self.heads[-1])


def variants(lesson: Lesson, quiz: Quiz) -> dict[str, Answer]:
    """Ours without ease, with ease from the pool alone, of higher rank, and with a guard."""
    member = fit_member(lesson, domain_map.LOOSENESS)
    found = {}
    recipes = {
        "ours, rebuilt": Recipe(),
        "ours without ease": Recipe(ease="nobody"),
        "ours, ease by the pool": Recipe(ease="pool"),
        "ours, rank 2 for ease": Recipe(rank=2),
        "ours, rank 3 for ease": Recipe(rank=3),
    }
    for name, recipe in recipes.items():
        made, fit_s = timed(partial(rebuild, lesson, quiz, recipe, member))
        error = standard_error(made, lesson.data.grade) if recipe == Recipe() else None
        found[name] = Answer(made.expected, fit_s, 0.0, error)
    return found


def fit_member(lesson: Lesson, looseness: float) -> DomainFit:
    """The map of domains; 0 is by ridge regression on membership, as strong as does best."""
    if looseness:
        with setting(domain_map, "LOOSENESS", looseness):
            return fit_domain_map(
                lesson.x.astype(np.float64), lesson.domains, lesson.weight, lesson.fold
            )
    inside = np.eye(len(lesson.domains.names))[lesson.domains.of_query]
    share = np.empty((len(RIDGES), *inside.shape))
    for fold in np.unique(lesson.fold):
        mine = lesson.fold == fold
        for n, table in enumerate(ridge_tables(lesson, inside, ~mine)):
            share[n, mine] = shares(lesson.x[mine], table, looseness)
    loss = [np.average(log_loss(one, inside).sum(axis=1), weights=lesson.weight) for one in share]
    best = int(np.argmin(loss))
    everything = np.ones(len(inside), bool)
    return DomainFit(ridge_tables(lesson, inside, everything)[best], share[best])


def shares(x: NDArray[np.float32], table: Floats, looseness: float) -> Floats:
    """Of each domain, by a map."""
    raw = x @ table[:-1] + table[-1]
    if looseness:
        return softmax(raw)
    some = np.clip(raw, 1e-3, 1)
    return np.asarray(some / some.sum(axis=1, keepdims=True))


def rebuild(lesson: Lesson, quiz: Quiz, recipe: Recipe, member: DomainFit | None = None) -> Rebuilt:
    """Fit heads by a recipe; `member` is the map of domains, if there is one already."""
    member = member or fit_member(lesson, recipe.looseness)
    share = shares(quiz.x, member.weights, recipe.looseness)
    if recipe.ease == "nobody":
        heads = fit_grade_heads(member.share, lesson.data.grade)
        return Rebuilt(member.share, heads, share)
    found = _ease(lesson, recipe.ease)
    targets = _within(lesson, recipe.rank) if recipe.rank else found.of_query[:, None]
    with setting(ridge, "STRENGTHS", recipe.strengths):
        experts = fit_experts(
            lesson.x.astype(np.float64), targets, lesson.domains.of_query, lesson.fold
        )
    tables = np.nan_to_num(experts.weights)
    raw = np.einsum("nf,fck->nck", quiz.x, tables[:-1], optimize=True) + tables[-1]
    asked = np.einsum("nc,nck->nk", share, raw)
    foreseen = _values(member.share, np.nan_to_num(experts.out_of_fold), found.of_domain)
    heads = fit_grade_heads(foreseen, lesson.data.grade)
    return Rebuilt(foreseen, heads, _values(share, asked, found.of_domain))


def _ease(lesson: Lesson, whose: str) -> Ease:
    grade = lesson.data.grade
    if whose == "everybody":
        grade = np.concatenate([grade, lesson.data.other_grade], axis=1)
    return fit_ease(grade, lesson.domains.of_query)


def _within(lesson: Lesson, rank: int) -> Floats:
    """Query factors once each model's mean in each domain is known."""
    grade = np.concatenate([lesson.data.grade, lesson.data.other_grade], axis=1)
    everybody = lesson._replace(data=replace(lesson.data, grade=grade))
    means = np.clip(domain_means(everybody), 0.01, 0.99)[lesson.domains.of_query]
    return factorise(grade, np.log(means / (1 - means)), lesson.weight, rank)


def _values(share: Floats, ease: Floats, domain_ease: Floats) -> Floats:
    """As `factor_values`, for any number of eases; shape (n, 1 + k + C + k C)."""
    each = [share * ease[:, n, None] for n in range(ease.shape[1])]
    common = np.column_stack([share @ domain_ease, ease])
    return np.column_stack([SHARED * common, share, *each])


def standard_error(made: Rebuilt, grade: Floats) -> Floats:
    """Of the expected grades of the quiz's queries, by Laplace's approximation of each head; the
    factors are taken as they are. Shape (n, m)."""
    design, asked = (
        np.column_stack([one, np.ones(len(one))]) for one in (made.foreseen, made.asked)
    )
    penalty = np.full(design.shape[1], HEAD_L2)
    penalty[-1] = 1e-6
    errors = np.empty(made.expected.shape)
    for model in range(grade.shape[1]):
        known = ~np.isnan(grade[:, model])
        likely = probability(design[known] @ made.heads[:, model])
        curvature = (design[known] * (likely * (1 - likely))[:, None]).T @ design[known]
        covariance = np.linalg.inv(curvature + np.diag(penalty))
        spread = np.sqrt(np.einsum("nf,fg,ng->n", asked, covariance, asked, optimize=True))
        expected = made.expected[:, model]
        errors[:, model] = expected * (1 - expected) * spread
    return errors


@contextmanager
def setting(module: ModuleType, name: str, value: object) -> Iterator[None]:
    """A module's constant, for a while."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def cased_reading(texts: Sequence[str]) -> Reading:
    """As the hashing backbone reads, but that capitals stay capitals and are counted."""
    raw = [_cased(text) for text in texts]
    capitals = np.array([sum(65 <= byte <= 90 for byte in one) for one in raw], np.float64)
    sizes = np.array([max(len(one), 1) for one in raw])
    counts = np.column_stack([surface(raw), np.log1p(capitals), capitals / sizes])
    blocks = [
        HashingBackbone()._embed_block(raw[start : start + 64]) for start in range(0, len(raw), 64)
    ]
    return Reading(np.concatenate(blocks), counts.astype(np.float32))


def _cased(text: str) -> bytes:
    raw = text.encode()
    if len(raw) > MOST_BYTES:
        raw = raw[: MOST_BYTES // 2] + raw[-MOST_BYTES // 2 :]
    return _BLANKS.sub(b" ", _LINE_ENDS.sub(b"\n", raw)).strip()
