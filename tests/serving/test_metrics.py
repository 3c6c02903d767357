from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import aiohttp
import pytest
import ray

from moa.cluster.meters import Labels, Meter, Registry, Tally
from moa.cluster.ray_meters import Kind, RayRegistry, exported_names
from moa.serving.metrics import Meters

DASHBOARD = Path(__file__).parents[2] / "deploy/grafana/endpoint.json"
_WORD = re.compile(r"ray_moa_[a-z0-9_]+")
_GROUPED = re.compile(r"by \(([a-z, _]+)\)")
WATCHED = {
    "requests", "tokens", "cost_usd", "first_piece_seconds", "router_seconds", "waiting",
    "calls_in_flight", "fallbacks", "decisions", "novelty",
}  # fmt: skip
"""What an endpoint must be watched for."""


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


def expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def test_the_dashboard_asks_for_what_there_is_and_for_all_of_it() -> None:
    named = Named(Tally())
    Meters(named)

    asked = set()
    for expression in expressions():
        (name,) = _WORD.findall(expression)
        asked.add(name)
        assert name in named.labels
        for group in _GROUPED.findall(expression):
            assert set(group.split(", ")) <= named.labels[name]

    watched = {f"ray_moa_{name}" for name in WATCHED}
    assert watched <= {re.sub("_(total|bucket)$", "", name) for name in asked}


@pytest.fixture
def exporting() -> Iterator[str]:
    """The metrics page of a local Ray that exports each second."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        _metrics_export_port=port,
        _system_config={"metrics_report_interval_ms": 1000},
    )
    yield f"http://127.0.0.1:{port}/metrics"
    ray.shutdown()


@pytest.mark.slow
async def test_ray_exports_all_meters_by_the_names_that_the_dashboard_has(exporting: str) -> None:
    named = Named(RayRegistry())
    Meters(named)
    for meter, labels in named.meters:
        meter.add(1, labels)

    missing = set(named.labels)
    async with asyncio.timeout(120), aiohttp.ClientSession() as http:
        while missing:
            missing -= await _exported(http, exporting)

    assert not missing


async def _exported(http: aiohttp.ClientSession, url: str) -> set[str]:
    """Names on the page; it changes about once a second, and nothing tells when."""
    await asyncio.sleep(0.5)
    try:
        async with http.get(url) as page:
            lines = (await page.text()).splitlines()
    except aiohttp.ClientError:
        return set()  # not there yet
    return {re.split(r"[{ ]", line)[0] for line in lines if not line.startswith("#")}
