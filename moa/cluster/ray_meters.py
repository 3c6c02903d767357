"""Numbers as Ray exports them to Prometheus (`ray_moa_…`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ray.util.metrics import Counter, Gauge, Histogram

from moa.cluster.meters import Labels, Meter

Kind = Literal["counter", "gauge", "histogram"]
_ENDINGS: dict[Kind, tuple[str, ...]] = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_count", "_sum"),
}


def exported_names(kind: Kind, name: str) -> list[str]:
    """The names of a meter's series on the metrics page, which dashboards ask for."""
    return [f"ray_{name}{ending}" for ending in _ENDINGS[kind]]


class RayRegistry:
    """See `moa.cluster.meters.Registry`."""

    def counter(self, name: str, description: str, labels: Sequence[str]) -> Meter:
        """See `Registry.counter`."""
        return _Counter(Counter(name, description=description, tag_keys=tuple(labels)))

    def gauge(self, name: str, description: str, labels: Sequence[str]) -> Meter:
        """See `Registry.gauge`."""
        return _Gauge(Gauge(name, description=description, tag_keys=tuple(labels)))

    def histogram(
        self, name: str, description: str, labels: Sequence[str], bounds: Sequence[float]
    ) -> Meter:
        """See `Registry.histogram`."""
        made = Histogram(
            name, description=description, boundaries=list(bounds), tag_keys=tuple(labels)
        )
        return _Histogram(made)


class _Counter:
    def __init__(self, counter: Counter) -> None:
        self._counter = counter

    def add(self, value: float, labels: Labels) -> None:
        if value > 0:
            self._counter.inc(value, tags=dict(labels))


class _Gauge:
    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge

    def add(self, value: float, labels: Labels) -> None:
        self._gauge.set(value, tags=dict(labels))


class _Histogram:
    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram

    def add(self, value: float, labels: Labels) -> None:
        self._histogram.observe(value, tags=dict(labels))
