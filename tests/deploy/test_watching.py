"""Dashboards, rules and runbook: they ask for what there is, and say what to do."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import promql_parser
import pytest

from moa.cluster.meters import Tally
from moa.dispatch.outcome import REASONS
from moa.pipeline.run_meters import RunMeters
from moa.serving.haproxy import free_port
from moa.serving.metrics import Meters
from moa.storage.run_folder import RunFolder
from tests.deploy.documents import anchors, links
from tests.deploy.watched import (
    DASHBOARDS,
    ROOT,
    RULES,
    RUNBOOK,
    Named,
    alerts,
    dashboard,
    expressions,
    names,
    of_panels,
    on_page,
    panels,
    rules,
)
from tests.jobs.conftest import JobUnderTest, Start, job_in, recorded_backlog

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="no promtool here: apt-get install prometheus"
)
ALWAYS = {"Component", "GpuIndex", "instance", "le"}
"""Labels that Ray, Prometheus or a histogram adds."""
WATCHED = {
    "spend against budget": "ray_moa_run_budget_usd",
    "end against deadline": "ray_moa_run_deadline_timestamp_seconds",
    "429s": "ray_moa_run_calls_total",
    "dead letters": "ray_moa_run_dead_letters_total",
    "queue age": "ray_moa_run_oldest_piece_seconds",
    "GPUs": "ray_node_gpus_utilization",
    "decisions by rule": "ray_moa_run_decisions_total",
    "models out": "ray_moa_run_model_out",
    "router's speed": "ray_moa_run_scored_total",
    "endpoint's requests": "ray_moa_requests_total",
    "first pieces": "ray_moa_first_piece_seconds_bucket",
}
LABELLED = {
    "Spend an hour, by lane": {"live", "batch", "flex"},
    "Starts, and how they ended": {"routed", "interrupted", "failed"},
    "Tokens a second": {"input", "output"},
}
"""Panel → values of the label that its legend shows."""
UNITS = {
    "currencyUSD", "dateTimeAsIso", "mbytes", "none", "ops", "percent", "percentunit", "reqps", "s",
    "short",
}  # fmt: skip


@pytest.fixture(scope="module")
def rays_own() -> set[str]:
    """What Ray says of each node, by its own list; of GPUs where there are some."""
    script = (
        "from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES\n"
        "print(*METRICS_GAUGES)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {f"ray_{name}" for name in done.stdout.split()}


@pytest.fixture(scope="module")
def labels() -> dict[str, set[str]]:
    """Exported name → labels, of all that we count."""
    named = Named(Tally())
    Meters(named)
    RunMeters(named, "night", (), None)
    return named.labels


@pytest.mark.parametrize("expression", expressions())
def test_what_is_asked_for_is_counted_and_has_the_labels(
    expression: str, labels: dict[str, set[str]], rays_own: set[str]
) -> None:
    asked = names([expression])
    recorded = {rule["record"] for rule in rules() if "record" in rule} | {"ALERTS{"}

    promql_parser.parse(expression)
    assert asked <= labels.keys() | rays_own
    assert asked or any(name in expression for name in recorded)
    for name, wanted in re.findall(r"\b(ray_moa_[a-z0-9_]+)\{([^}]*)\}", expression):
        assert set(re.findall(r"([A-Za-z_]+)\s*(?:=|!)", wanted)) <= labels[name]
    known = set().union(ALWAYS, *(labels.get(name, set()) for name in asked))
    for group in re.findall(r"by \(([A-Za-z_, ]+)\)", expression):
        assert not asked or set(group.split(", ")) <= known


def test_what_matters_is_on_a_dashboard() -> None:
    asked = names([one for path in DASHBOARDS for one in of_panels(path)])

    assert set(WATCHED.values()) <= asked


def test_all_that_is_counted_is_on_a_dashboard_or_in_a_rule(labels: dict[str, set[str]]) -> None:
    asked = names(expressions())
    counted = {re.sub("_(count|sum|bucket)$", "_bucket", name) for name in labels}

    assert counted <= asked


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_whole(path: Path) -> None:
    found = dashboard(path)
    placed, shown = found["panels"], panels(path)

    assert found["uid"] == f"moa-{path.stem}"
    variables = {one["name"]: one["type"] for one in found["templating"]["list"]}
    assert variables["datasource"] == "datasource"
    assert len({panel["id"] for panel in placed}) == len(placed)
    assert len({panel["title"] for panel in shown}) == len(shown)
    cells: set[tuple[int, int]] = set()
    for panel in placed:
        mine = cells_of(panel["gridPos"])
        assert not mine & cells, f"{panel['title']} lies over another panel"
        cells |= mine
    for panel in shown:
        assert panel["description"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
        used = set(re.findall(r"\$(\w+)", str(panel["targets"])))
        assert used <= variables.keys() | {"__rate_interval"}
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_panels_lead_to_the_runbook_and_the_runbook_to_panels() -> None:
    links = [
        link["url"] for path in DASHBOARDS for one in panels(path) for link in one.get("links", ())
    ]
    titles = {panel["title"] for path in DASHBOARDS for panel in panels(path)}
    told = {alert["annotations"]["runbook_url"] for alert in alerts()}
    quoted = set(re.findall(r'"([A-Z][A-Za-z0-9, ]+)"', RUNBOOK.read_text()))

    assert set(links) == told
    assert quoted
    assert quoted <= titles


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_line_that_is_mended_in_colour_is_one_of_its_panel(path: Path) -> None:
    for panel in panels(path):
        legends = {target["legendFormat"] for target in panel["targets"]}
        for override in panel["fieldConfig"]["overrides"]:
            matcher = override["matcher"]
            fixed = legends | LABELLED.get(panel["title"], set())
            assert matcher["id"] == "byRegexp" or matcher["options"] in fixed


def cells_of(place: dict[str, int]) -> set[tuple[int, int]]:
    """Of Grafana's grid, which is 24 wide."""
    x, y, w, h = (place[key] for key in "xywh")
    assert w > 0
    assert h > 0
    assert x + w <= 24
    return {(column, row) for column in range(x, x + w) for row in range(y, y + h)}


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: str(alert["alert"]))
def test_an_alert_says_what_it_is_and_where_it_is_told_what_to_do(alert: dict[str, Any]) -> None:
    notes = alert["annotations"]
    _, _, anchor = notes["runbook_url"].partition("/deploy/RUNBOOK.md#")

    assert alert["labels"]["severity"] in {"critical", "warning", "info"}
    assert notes.keys() == {"summary", "description", "runbook_url"}
    assert anchor == alert["alert"].lower()
    assert anchor in anchors(RUNBOOK)


@needs_promtool
def test_prometheus_takes_the_rules() -> None:
    done = promtool("check", "rules", str(RULES))

    assert f"SUCCESS: {len(rules())} rules found" in done


@needs_promtool
def test_each_alert_fires_when_it_should_and_is_silent_else() -> None:
    cases = ROOT / "tests/deploy/alerts_test.yaml"

    done = promtool("test", "rules", str(cases))

    assert "SUCCESS" in done
    text = cases.read_text()
    assert all(alert["alert"] in text for alert in alerts())


def promtool(*words: str) -> str:
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


REFUSED = recorded_backlog(3).column("query_id").to_pylist()
"""Queries that no vendor takes."""


@dataclass
class Night:
    """A run that was watched."""

    seen: set[str]
    """Names on its page, from its first to its last moment."""
    last: str
    """The page as it was at the end."""
    status: int
    job: JobUnderTest


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Night]:
    """A planned run under a budget and a deadline; vendors refuse, fail, and take some queries for
    malformed.
    """
    port = free_port()
    soon = datetime.now(UTC) + timedelta(hours=1)
    with job_in(tmp_path_factory.mktemp("night")) as job:
        faults = {"rate_limited": 0.2, "status_500": 0.1, "retry_after_s": 0.1}
        refused = {name: {"kind": "error", "status": 400} for name in REFUSED}
        job.server.set_script({"latency": {"median_s": 0.5}, "faults": faults, "queries": refused})
        start = job.start(
            "plan.lanes=['live']", f"plan.finish_by={soon.isoformat()}", "dispatch.budget_usd=5",
            "dispatch.max_in_flight=8", "dispatch.max_attempts=1", "log.style='json'",
            f"log.metrics_port={port}", "log.metrics_linger_s=6",
            RAY_metrics_report_interval_ms="1000",
        )  # fmt: skip
        seen, last = watch(start, port)
        status, _, err = start.wait()
        assert status == 0, err[-3000:]
        yield Night(seen, last, status, job)


def watch(start: Start, port: int) -> tuple[set[str], str]:
    """What its page has had until it ended. Nothing tells when it changes: about once a second."""
    seen: set[str] = set()
    last = ""
    while not start.ended_within(0.3):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
                last = page.read().decode()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            continue  # not there yet, or no longer
        seen |= on_page(last)
    return seen, last


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_page_of_a_run_has_all_that_is_asked_of_runs_and_nodes(night: Night) -> None:
    asked = {
        name for name in names(expressions()) if name.startswith(("ray_moa_run_", "ray_node_"))
    }
    of_gpus = {name for name in asked if name.startswith(("ray_node_gpu", "ray_node_gram"))}

    gpus = night.seen & {"ray_node_gpus_available"}
    assert asked - night.seen <= (set() if gpus else of_gpus)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_last_numbers_are_those_of_the_run_folder(night: Night) -> None:
    manifest = RunFolder(str(night.job.folder)).manifest()
    assert manifest is not None
    page = night.last

    assert total(page, "ray_moa_run_scored_total") == 240
    assert total(page, "ray_moa_run_decisions_total") == 240
    assert total(page, "ray_moa_run_dead_letters_total", 'reason="invalid_request"') == len(REFUSED)
    assert manifest["outcomes"] == {"answered": 240 - len(REFUSED), "dead_letter": len(REFUSED)}
    cost_usd = total(page, "ray_moa_run_cost_usd_total")
    assert cost_usd == pytest.approx(float(manifest["cost_usd"]))
    calls = total(page, "ray_moa_run_calls_total")
    assert calls == len(night.job.server.ledger())
    assert total(page, "ray_moa_run_started_total") == 1
    assert total(page, "ray_moa_run_ended_total", 'how="routed"') == 1


def test_the_runbook_has_each_reason_of_dead_letters_and_each_of_its_links() -> None:
    text = RUNBOOK.read_text()
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]

    told = [reason for row in rows for reason in re.findall(r"`([a-z_]+)`", row)]
    assert sorted(told) == sorted(REASONS)
    inner = {link.removeprefix("#") for link, _ in links(RUNBOOK) if link.startswith("#")}
    assert inner <= anchors(RUNBOOK)
    assert len(text.splitlines()) <= 220


def total(page: str, name: str, having: str = "") -> float:
    lines = (line for line in page.splitlines() if line.startswith(f"{name}{{"))
    return sum(float(line.rpartition(" ")[2]) for line in lines if having in line)
