"""Logistic regression by Newton's method: few lines, a unique optimum, equal bits on a rerun."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
STEPS = 30
PRECISION = 1e-10


def fit_log_odds(features: Floats, grade: Floats, weight: Floats, *, l2: float) -> Floats:
    """Logistic regression on grades in [0, 1].

    Args:
        features: shape (n, width).
        grade: shape (n,); a fraction counts as so much of a success.
        weight: of each query, shape (n,).
        l2: strength of the pull towards 0, intercept excepted; > 0.

    Returns:
        Coefficients, the intercept last, shape (width + 1,).
    """
    design = np.column_stack([features, np.ones(len(features))])
    penalty = np.full(design.shape[1], l2)
    penalty[-1] = 0
    share = np.clip(np.average(grade, weights=weight), 1e-3, 1 - 1e-3)
    coefficients = np.zeros(design.shape[1])
    coefficients[-1] = np.log(share / (1 - share))
    for _ in range(STEPS):
        expected = 1 / (1 + np.exp(-(design @ coefficients)))
        gradient = design.T @ (weight * (expected - grade)) + penalty * coefficients
        curvature = weight * np.maximum(expected * (1 - expected), 1e-6)
        hessian = (design * curvature[:, None]).T @ design + np.diag(penalty)
        step = np.linalg.solve(hessian, gradient)
        coefficients -= step
        if np.abs(step).max() < PRECISION:
            break
    return coefficients
