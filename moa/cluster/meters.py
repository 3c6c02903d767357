"""What is watched of jobs and endpoints: labelled numbers; never a prompt, an answer or a key."""

from __future__ import annotations

from collections import Counter as Tallies
from collections.abc import Mapping, Sequence
from typing import Protocol

Labels = Mapping[str, str]


class Meter(Protocol):
    """One number that is watched."""

    def add(self, value: float, labels: Labels) -> None:
        """Count, set or observe, as its kind is."""
        ...


class Registry(Protocol):
    """Where meters are made."""

    def counter(self, name: str, description: str, labels: Sequence[str]) -> Meter:
        """It only grows."""
        ...

    def gauge(self, name: str, description: str, labels: Sequence[str]) -> Meter:
        """The latest value counts."""
        ...

    def histogram(
        self, name: str, description: str, labels: Sequence[str], bounds: Sequence[float]
    ) -> Meter:
        """How often a value is below each bound."""
        ...


class Tally:
    """A registry in memory: of a process without Ray, and of tests."""

    def __init__(self) -> None:
        self.values: Tallies[tuple[str, tuple[tuple[str, str], ...]]] = Tallies()

    def counter(self, name: str, description: str, labels: Sequence[str]) -> Meter:
        """See `Registry.counter`."""
        return _Sum(name, self)

    def gauge(self, name: str, description: str, labels: Sequence[str]) -> Meter:
        """See `Registry.gauge`."""
        return _Latest(name, self)

    def histogram(
        self, name: str, description: str, labels: Sequence[str], bounds: Sequence[float]
    ) -> Meter:
        """See `Registry.histogram`; only how often and the sum."""
        return _Sum(name, self, counted=True)

    def total(self, name: str) -> float:
        """Over all labels."""
        return sum(value for (known, _), value in self.values.items() if known == name)


class _Sum:
    def __init__(self, name: str, tally: Tally, *, counted: bool = False) -> None:
        self._name, self._tally, self._counted = name, tally, counted

    def add(self, value: float, labels: Labels) -> None:
        key = tuple(sorted(labels.items()))
        self._tally.values[self._name, key] += value  # type: ignore[assignment]
        if self._counted:
            self._tally.values[f"{self._name}_count", key] += 1


class _Latest:
    def __init__(self, name: str, tally: Tally) -> None:
        self._name, self._tally = name, tally

    def add(self, value: float, labels: Labels) -> None:
        self._tally.values[self._name, tuple(sorted(labels.items()))] = value  # type: ignore[assignment]
