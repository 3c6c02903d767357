from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import aiohttp
import pytest
import ray

from moa.cluster.ray_meters import RayRegistry
from moa.serving.metrics import Meters
from tests.deploy.watched import Named, expressions, names, on_page


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
async def test_ray_exports_all_meters_by_the_names_that_dashboards_and_rules_have(
    exporting: str,
) -> None:
    named = Named(RayRegistry())
    Meters(named)
    for meter, labels in named.meters:
        meter.add(1, labels)

    asked = {
        name for name in names(expressions()) if not name.startswith(("ray_moa_run_", "ray_node"))
    }
    missing = asked | set(named.labels)
    async with asyncio.timeout(120), aiohttp.ClientSession() as http:
        while missing:
            missing -= await _exported(http, exporting)

    assert not missing


async def _exported(http: aiohttp.ClientSession, url: str) -> set[str]:
    """Names on the page; it changes about once a second, and nothing tells when."""
    await asyncio.sleep(0.5)
    try:
        async with http.get(url) as page:
            return on_page(await page.text())
    except aiohttp.ClientError:
        return set()  # not there yet
