"""What a plan gives to each option, summed over its queries, and how far the sums may be off."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moa.planning.capacity import Backlog, Choice, Floats

NINE_IN_TEN_SIGMAS = 1.2816
"""Of a normal distribution nine in ten lie below so many standard deviations."""
TAIL = 2.0
"""By what a deviation that is read off the nine-in-ten quantile is multiplied: few answers run on
and on. Cross-validated on the recordings it was too small by a factor of 1.08 to 2.1, by model."""
LEAST_SPREAD, ANY_SPREAD = 0.1, 0.8
"""Deviation of an answer's tokens over their mean: at least, and where no quantile is known."""


class Totals:
    """Sums over queries by option; all of shape (m, L)."""

    def __init__(self, models: int, lanes: int) -> None:
        shape = (models, lanes)
        self.queries = np.zeros(shape)
        self.usd = np.zeros(shape)
        self.output_usd = np.zeros(shape)
        """What of `usd` is for output."""
        self.grade = np.zeros(shape)
        self.input_tokens = np.zeros(shape)
        self.output_tokens = np.zeros(shape)
        self.usd_variance = np.zeros(shape)
        """Of the sum, were each query independent of the others."""
        self.grade_variance = np.zeros(shape)
        """Likewise."""

    def add(
        self,
        backlog: Backlog,
        choice: Choice,
        most_output_tokens: NDArray[np.floating[Any]] | None,
        usd_per_output_token: NDArray[np.floating[Any]],
    ) -> None:
        """Count some queries.

        Args:
            backlog: n queries; tokens that it does not tell are counted as none.
            choice: `model * lanes + lane` of each, -1 for none.
            most_output_tokens: that nine in ten answers stay below, shape (n, m).
            usd_per_output_token: shape (m, L); anything where an option is not sold.
        """
        rows = np.flatnonzero(np.asarray(choice) >= 0)
        option = np.asarray(choice)[rows].astype(np.intp)
        model = option // self.queries.shape[1]
        usd = backlog.cost_usd.reshape(backlog.rows, self.queries.size)[rows, option]
        grade = backlog.grade[rows, model].astype(np.float64)
        tokens = _taken(backlog.output_tokens, rows, model)
        most = None if most_output_tokens is None else _taken(most_output_tokens, rows, model)
        price = np.asarray(usd_per_output_token, np.float64).reshape(-1)[option]
        for sums, values in (
            (self.queries, np.ones(len(rows))),
            (self.usd, usd),
            (self.output_usd, np.minimum(price * tokens, usd)),
            (self.grade, grade),
            (self.input_tokens, _taken(backlog.input_tokens, rows, model)),
            (self.output_tokens, tokens),
            (self.usd_variance, (price * _deviation(tokens, most)) ** 2),
            (self.grade_variance, grade * (1 - grade)),
        ):
            sums += np.bincount(option, values, sums.size).reshape(sums.shape)

    def give(
        self,
        model: int,
        lane: int,
        *,
        queries: float,
        input_tokens: float,
        output_tokens: float,
        usd: float,
        output_usd: float,
    ) -> None:
        """Count queries of which only sums are known.

        Args:
            model: number of the model.
            lane: number of the lane.
            queries: how many.
            input_tokens: of all of them.
            output_tokens: likewise.
            usd: likewise.
            output_usd: what of `usd` is for output.
        """
        for sums, value in (
            (self.queries, queries),
            (self.usd, usd),
            (self.output_usd, output_usd),
            (self.input_tokens, input_tokens),
            (self.output_tokens, output_tokens),
            (self.usd_variance, (ANY_SPREAD * output_usd) ** 2 / max(queries, 1.0)),
        ):
            sums[model, lane] += value

    def scaled(self, factor: float) -> Totals:
        """Of a backlog `factor` times as large, of whose queries these are a fair sample."""
        made = Totals(*self.queries.shape)
        for name, sums in vars(self).items():
            setattr(made, name, sums * factor)
        return made


def _taken(values: NDArray[Any] | None, rows: NDArray[np.intp], model: NDArray[np.intp]) -> Floats:
    if values is None:
        return np.zeros(len(rows))
    return np.asarray(values[rows, model], np.float64)


def _deviation(tokens: Floats, most: Floats | None) -> Floats:
    """Of single answers' output tokens."""
    if most is None:
        return ANY_SPREAD * tokens
    return np.maximum(TAIL * (most - tokens) / NINE_IN_TEN_SIGMAS, LEAST_SPREAD * tokens)
