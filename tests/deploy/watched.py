"""What the dashboards and the rules ask for, and what metrics pages have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from moa.cluster.meters import Labels, Meter, Registry
from moa.cluster.ray_meters import Kind, exported_names

ROOT = Path(__file__).parents[2]
DASHBOARDS = tuple(ROOT / "deploy/grafana" / f"{name}.json" for name in ("endpoint", "nightly"))
RULES = ROOT / "deploy/prometheus/alerts.yaml"
RUNBOOK = ROOT / "deploy/RUNBOOK.md"
NAME = re.compile(r"\bray_[a-z0-9_]+")
_FILLED = {"$__rate_interval": "1m", "$run": "night"}
"""What Grafana puts in place of its variables."""


class Named:
    """A registry that keeps what it is asked for: exported names, each with its labels."""

    def __init__(self, inner: Registry) -> None:
        self._inner = inner
        self.labels: dict[str, set[str]] = {}
        self.meters: list[tuple[Meter, Labels]] = []
        """Each with some labels."""

    def counter(self, name: str, description: str, labels: Sequence[str]) -> Meter:
        return self._keep("counter", name, labels, self._inner.counter(name, description, labels))

    def gauge(self, name: str, description: str, labels: Sequence[str]) -> Meter:
        return self._keep("gauge", name, labels, self._inner.gauge(name, description, labels))

    def histogram(
        self, name: str, description: str, labels: Sequence[str], bounds: Sequence[float]
    ) -> Meter:
        made = self._inner.histogram(name, description, labels, bounds)
        return self._keep("histogram", name, labels, made)

    def _keep(self, kind: Kind, name: str, labels: Sequence[str], made: Meter) -> Meter:
        for exported in exported_names(kind, name):
            self.labels[exported] = {*labels, *(["le"] if kind == "histogram" else [])}
        self.meters.append((made, dict.fromkeys(labels, "some")))
        return made


def dashboard(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def panels(path: Path) -> list[dict[str, Any]]:
    """Of a dashboard, without the headings of its rows."""
    return [panel for panel in dashboard(path)["panels"] if panel["type"] != "row"]


def of_panels(path: Path) -> Iterator[str]:
    """Expressions of a dashboard, as Grafana sends them."""
    for panel in panels(path):
        for target in panel["targets"]:
            expression = target["expr"]
            for variable, value in _FILLED.items():
                expression = expression.replace(variable, value)
            yield expression


def rules() -> list[dict[str, Any]]:
    """Recording rules and alerts, in order."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def expressions() -> list[str]:
    """All that is asked for."""
    shown = [expression for path in DASHBOARDS for expression in of_panels(path)]
    return [*shown, *(rule["expr"] for rule in rules())]


def names(texts: Sequence[str]) -> set[str]:
    return {name for text in texts for name in NAME.findall(text)}


def on_page(page: str) -> set[str]:
    """Names of the series on a metrics page."""
    return {
        re.split(r"[{ ]", line)[0] for line in page.splitlines() if line and line[0] not in "# "
    }
