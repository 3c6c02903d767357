"""Graded outcomes → what a backbone is fine-tuned on: token ids, soft targets, who is drawn when.

No torch and no Ray in here: all of it is made once, before a device is claimed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from moa.errors import ConfigError
from moa.fine_tuning.config import SPLIT, DataConfig
from moa.router.prompt_tokens import PromptTokens
from moa.training.dataset import Dataset, read_dataset, read_grades, read_queries

Ints = NDArray[np.int64]
Reals = NDArray[np.float32]

PRIOR_GRADES = 5.0
"""How many grades a model's mean counts for where its grades in one source are few."""
LEAST_SHARE = 0.01
"""Mean grades are kept this far from 0 and 1, where log odds have no end."""


@dataclass(frozen=True, slots=True)
class Examples:
    """n queries, m models, s sources."""

    ids: tuple[NDArray[np.int32], ...]
    """Token ids of each query, as the router will read it."""
    grade: Reals
    """In [0, 1], NaN where missing, shape (n, m)."""
    log_tokens: Reals
    """log(1 + output tokens), NaN where missing, shape (n, m)."""
    source: Ints
    """Of each query, shape (n,)."""
    held_out: NDArray[np.bool_]
    """Not learned from, shape (n,)."""
    models: tuple[str, ...]
    sources: tuple[str, ...]
    cut: int
    """Queries whose middle was left out."""

    @property
    def lengths(self) -> Ints:
        """Tokens of each query, shape (n,)."""
        return np.array([len(ids) for ids in self.ids], np.int64)

    def digest(self) -> str:
        """Of everything that is learned from: other data, another digest."""
        hashed = hashlib.sha256(repr((self.models, self.sources)).encode())
        for ids in self.ids:
            hashed.update(ids.tobytes())
        for values in (self.lengths, self.grade, self.log_tokens, self.source, self.held_out):
            hashed.update(np.ascontiguousarray(values).tobytes())
        return hashed.hexdigest()

    def prior_log_odds(self) -> Reals:
        """Of a full grade by source and model, from what is learned from, shape (s, m).

        With it as the heads' bias the encoder needs to say nothing of a query's source.
        """
        share = _means(self.grade[~self.held_out], self.source[~self.held_out], len(self.sources))
        share = np.clip(share, LEAST_SHARE, 1 - LEAST_SHARE)
        return np.asarray(np.log(share / (1 - share)), np.float32)

    def prior_log_tokens(self) -> Reals:
        """Mean log output tokens likewise."""
        rows = ~self.held_out
        return _means(self.log_tokens[rows], self.source[rows], len(self.sources))


def _means(values: Reals, source: Ints, sources: int) -> Reals:
    """By source and model, drawn towards the model's mean where there are few; shape (s, m)."""
    known = np.isfinite(values)
    inside = np.eye(sources)[source].T
    filled = np.where(known, values, 0.0)
    overall = filled.sum(0) / np.maximum(known.sum(0), 1)
    means = (inside @ filled + PRIOR_GRADES * overall) / (inside @ known + PRIOR_GRADES)
    return np.asarray(means, np.float32)


def read_examples(folder: Path | str, config: DataConfig, tokens: PromptTokens) -> Examples:
    """The training queries of a folder.

    Raises:
        ConfigError: a file is missing, no model has enough grades, or nothing is left to learn
            from or to hold out.
    """
    models = graded_models(folder, config.least_grades)
    return make_examples(read_dataset(folder, models, split=SPLIT), config, tokens)


def graded_models(folder: Path | str, least: int) -> list[str]:
    """Every model with at least so many grades on training queries, sorted.

    Raises:
        ConfigError: there is none, or no training query.
    """
    queries = read_queries(folder).filter(pc.field("split") == SPLIT)
    if not len(queries):
        raise ConfigError(f"{folder} has no query whose split is {SPLIT!r}: nothing to learn from")
    graded = read_grades(folder).filter(
        pc.field("query_id").isin(queries.column("query_id").combine_chunks())
    )
    counts = {
        one["values"]: one["counts"]
        for one in pc.value_counts(graded.column("model").combine_chunks()).to_pylist()
    }
    enough = sorted(model for model, count in counts.items() if count >= least)
    if not enough:
        most = max(counts.values(), default=0)
        raise ConfigError(
            f"data.least_grades = {least}: no model has as many grades on the training queries of "
            f"{folder}; the most that one has is {most}. Lower it, or add graded outcomes"
        )
    return enough


def make_examples(data: Dataset, config: DataConfig, tokens: PromptTokens) -> Examples:
    """As `read_examples`, of a dataset that has been read."""
    if config.most_per_source is not None:
        data = data.only(chosen(data, config.most_per_source))
    held_out = data.folds(config.folds) == config.held_out_fold
    for what, count in (("to learn from", (~held_out).sum()), ("held out", held_out.sum())):
        if not count:
            raise ConfigError(
                f"data.held_out_fold = {config.held_out_fold} of {config.folds}: of "
                f"{len(data.texts)} training queries none is {what}. Take another fold, or add "
                "queries"
            )
    rows = tokens(data.texts)
    sources = tuple(sorted(set(data.sources)))
    number = {source: n for n, source in enumerate(sources)}
    return Examples(
        ids=tuple(np.array(ids, np.int32) for ids in rows.ids),
        grade=data.grade.astype(np.float32),
        log_tokens=np.log1p(data.output_tokens).astype(np.float32),
        source=np.array([number[source] for source in data.sources], np.int64),
        held_out=held_out,
        models=data.models,
        sources=sources,
        cut=int(rows.cut.sum()),
    )


def chosen(data: Dataset, most: int) -> NDArray[np.bool_]:
    """At most so many queries of each source, those of the smallest hashes; shape (n,)."""
    salted = (f"chosen {group}".encode() for group in data.groups)
    hashed = np.array([xxhash.xxh3_64_intdigest(group) for group in salted], np.uint64)
    taken = np.zeros(len(data.texts), np.bool_)
    names = np.array(data.sources)
    for source in set(data.sources):
        rows = np.flatnonzero(names == source)
        taken[rows[np.argsort(hashed[rows], kind="stable")[:most]]] = True
    return taken


def schedule(examples: Examples, *, steps: int, batch: int, exponent: float, seed: int) -> Ints:
    """Which queries each step learns from, shape (steps, batch).

    A source's queries come in a random order, all of them before any comes again. Made whole and
    from the seed, so that a run that goes on needs to remember nothing of it.
    """
    random = np.random.default_rng(seed)
    learned = np.flatnonzero(~examples.held_out)
    by_source = [learned[examples.source[learned] == n] for n in range(len(examples.sources))]
    sizes = np.array([len(rows) for rows in by_source], np.float64)
    share = np.where(sizes > 0, np.maximum(sizes, 1) ** exponent, 0.0)
    drawn = random.choice(len(sizes), size=steps * batch, p=share / share.sum())
    order = np.empty(steps * batch, np.int64)
    for source, rows in enumerate(by_source):
        places = np.flatnonzero(drawn == source)
        if len(places):
            rounds = -(-len(places) // len(rows))
            stream = np.concatenate([random.permutation(rows) for _ in range(rounds)])
            order[places] = stream[: len(places)]
    return order.reshape(steps, batch)


def micro_batches(
    rows: Ints, lengths: Ints, *, tokens: int, worker: int, workers: int
) -> Iterator[Ints]:
    """One worker's share of some queries, in portions of at most `tokens` with padding.

    Every worker gets as many portions, of as many queries each, as any other: they wait for each
    other in each. The longest come first: what does not fit the memory fails at once.

    Args:
        rows: queries, a multiple of `workers`.
        lengths: of all queries, in tokens.
    """
    longest_first = rows[np.argsort(-lengths[rows], kind="stable")]
    start = 0
    while start < len(longest_first):
        each = max(1, int(tokens // lengths[longest_first[start]]))
        yield longest_first[start : start + each * workers][worker::workers]
        start += each * workers


def padded(ids: Sequence[NDArray[np.int32]]) -> tuple[Ints, Ints]:
    """Token ids and which of them count, shape (n, longest) each; padding is on the right."""
    longest = max(len(one) for one in ids)
    filled = np.zeros((len(ids), longest), np.int64)
    counts = np.zeros((len(ids), longest), np.int64)
    for row, one in enumerate(ids):
        filled[row, : len(one)] = one
        counts[row, : len(one)] = 1
    return filled, counts
