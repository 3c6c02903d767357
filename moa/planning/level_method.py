"""The least value of a convex function in a box, by few evaluations: a bundle method with levels.

Each evaluation gives a plane that lies below the function. The least value of all planes is a
lower bound; the next point is the one nearest to the best so far at which the planes fall below a
level between both bounds. Source: Lemaréchal, Nemirovskii, Nesterov, "New variants of bundle
methods", Mathematical Programming 69 (1995).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from moa.planning.capacity import Bools, Floats

LEVEL = 0.3
"""Where between the bounds the next point shall be, from the lower one."""
MAX_PLANES = 160
INTERIOR_STEPS = 60
DIVERGED = 1e20


@dataclass(frozen=True, slots=True)
class Region:
    """Where to look: numbers from 0 to `top`, those of `group` with a sum of 1 at most."""

    top: float
    group: Bools

    @classmethod
    def box(cls, top: float, size: int) -> Region:
        """No group."""
        return cls(top, np.zeros(size, np.bool_))

    def faces(self) -> tuple[Floats, Floats]:
        """Rows and right sides: inside are the points of which `rows @ x <= sides`."""
        size = len(self.group)
        rows, sides = [-np.eye(size), np.eye(size)], np.repeat([0.0, self.top], size)
        if not self.group.any():
            return np.vstack(rows), sides
        return np.vstack([*rows, self.group[None].astype(float)]), np.append(sides, 1.0)

    def least(self, slope: Floats) -> float:
        """The least value of a linear function."""
        falling = np.minimum(slope, 0.0)
        together = float(falling[self.group].min()) if self.group.any() else 0.0
        return float(falling[~self.group].sum()) * self.top + together

    def inside(self, point: Floats) -> Floats:
        """The point, with what rounding has put outside moved in."""
        out = np.clip(point, 0.0, self.top)
        out[self.group] /= max(1.0, float(out[self.group].sum()))
        return out


@dataclass(slots=True)
class Minimum:
    """Where the least value was found, and that it is no less than `lower`."""

    point: Floats
    value: float
    lower: float
    evaluations: int


@dataclass(slots=True)
class Planes:
    """What is known of the function: it is at least `offset + slope @ x` for each plane."""

    dimensions: int
    slopes: list[Floats] = field(default_factory=list)
    offsets: list[float] = field(default_factory=list)

    def add(self, point: Floats, value: float, slope: Floats) -> None:
        """The plane that touches the function here; the oldest one goes when there are many."""
        self.slopes.append(slope)
        self.offsets.append(value - float(slope @ point))
        if len(self.slopes) > MAX_PLANES:
            del self.slopes[0], self.offsets[0]

    def lowest(self, region: Region) -> tuple[Floats, float]:
        """Where the planes are lowest, and a value that they do not fall below."""
        slopes, offsets = np.array(self.slopes), np.array(self.offsets)
        size = self.dimensions
        faces, sides = region.faces()
        rows = np.vstack(
            [
                np.hstack([slopes, -np.ones((len(slopes), 1))]),
                np.hstack([faces, np.zeros((len(faces), 1))]),
            ]
        )
        solution, weights = quadratic_program(
            np.zeros((size + 1, size + 1)),
            np.append(np.zeros(size), 1.0),
            rows,
            np.concatenate([-offsets, sides]),
        )
        # However exact the weights of the planes are, their mean bounds from below.
        share = weights[: len(slopes)] / weights[: len(slopes)].sum()
        bound = float(share @ offsets) + region.least(share @ slopes)
        return region.inside(solution[:size]), bound

    def project(self, point: Floats, level: float, region: Region) -> Floats:
        """The nearest point at which no plane is above the level."""
        slopes, offsets = np.array(self.slopes), np.array(self.offsets)
        faces, sides = region.faces()
        solution, _ = quadratic_program(
            np.eye(self.dimensions),
            -point,
            np.vstack([slopes, faces]),
            np.concatenate([level - offsets, sides]),
        )
        return region.inside(solution)


def minimise(
    function: Callable[[Floats], tuple[float, Floats]],
    start: Floats,
    region: Region,
    *,
    tolerance: float,
    max_evaluations: int,
    planes: Planes | None = None,
    enough: float = -np.inf,
) -> Minimum:
    """Find the least value in a region.

    Args:
        function: value and a slope (a subgradient) at a point.
        start: the first point.
        region: where to look.
        tolerance: how far the value may be above the lower bound at the end.
        max_evaluations: whatever came of it.
        planes: what is known already; is added to.
        enough: a value below this ends the search.
    """
    planes = planes if planes is not None else Planes(len(start))
    found = Minimum(start, np.inf, -np.inf, 0)
    point = start
    while found.evaluations < max_evaluations:
        value, slope = function(point)
        found.evaluations += 1
        planes.add(point, value, slope)
        if value < found.value:
            found.point, found.value = point, value
        lowest, lower = planes.lowest(region)
        found.lower = max(found.lower, lower)
        gap = found.value - found.lower
        if gap <= tolerance or found.value < enough:
            break
        nearest = planes.project(found.point, found.lower + LEVEL * gap, region)
        # A step too short to tell apart: take the planes' own lowest point.
        moved = np.abs(nearest - point).max() > 1e-13 * max(1.0, float(np.abs(point).max()))
        point = nearest if moved else lowest
    return found


def quadratic_program(
    quadratic: Floats, linear: Floats, rows: Floats, sides: Floats
) -> tuple[Floats, Floats]:
    """Minimise x'Qx/2 + c'x where `rows @ x <= sides`; gives x and the rows' multipliers.

    Mehrotra's predictor and corrector, for a few dozen variables. Source: Nocedal, Wright,
    "Numerical Optimization", algorithm 16.4.
    """
    point = np.zeros(len(linear))
    slack = np.maximum(sides - rows @ point, 1.0)
    weight = np.ones(len(sides))
    scale = 1.0 + max(float(np.abs(linear).max()), float(np.abs(sides).max()))
    for _ in range(INTERIOR_STEPS):
        stationary = quadratic @ point + linear + rows.T @ weight
        primal = rows @ point + slack - sides
        middle = float(slack @ weight) / len(sides)
        if middle > DIVERGED * scale:  # by rounding, no point is inside: the last one is nearly
            break
        if max(np.abs(stationary).max(), np.abs(primal).max(), middle) < 1e-13 * scale:
            break
        matrix = quadratic + (rows.T * (weight / slack)) @ rows
        matrix[np.diag_indices_from(matrix)] += 1e-14 * (1.0 + np.abs(np.diag(matrix)))
        try:
            inverse: Floats = np.asarray(np.linalg.inv(matrix), np.float64)
        except np.linalg.LinAlgError:  # pragma: no cover  as far as rounding allows
            break
        affine = _step(inverse, rows, slack, weight, stationary, primal, slack * weight)
        length = _length(slack, weight, affine)
        after = float((slack + length * affine[1]) @ (weight + length * affine[2])) / len(sides)
        centre = (after / middle) ** 3 * middle
        complementary = slack * weight + affine[1] * affine[2] - centre
        step = _step(inverse, rows, slack, weight, stationary, primal, complementary)
        length = 0.995 * _length(slack, weight, step)
        if not np.isfinite(step[0]).all():
            break
        point = point + length * step[0]
        slack = slack + length * step[1]
        weight = weight + length * step[2]
    return point, weight


def _step(
    inverse: Floats,
    rows: Floats,
    slack: Floats,
    weight: Floats,
    stationary: Floats,
    primal: Floats,
    complementary: Floats,
) -> tuple[Floats, Floats, Floats]:
    """Newton's step of point, slack and weight."""
    right = -stationary - rows.T @ ((weight * primal - complementary) / slack)
    point = inverse @ right
    slacks = -primal - rows @ point
    return point, slacks, -(complementary + weight * slacks) / slack


def _length(slack: Floats, weight: Floats, step: tuple[Floats, Floats, Floats]) -> float:
    """How far slack and weight stay above 0, 1 at most."""
    both, change = np.concatenate([slack, weight]), np.concatenate([step[1], step[2]])
    falling = change < 0
    if not falling.any():
        return 1.0
    return min(1.0, float((both[falling] / -change[falling]).min()))
