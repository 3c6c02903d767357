from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from moa.errors import ConfigError, NotPromoted
from moa.evaluation.promotion import PromoteRouterConfig, history_lines, promote, roll_back
from moa.evaluation.verdict import VERDICT
from moa.router.artifact import WEIGHTS
from moa.router.facts import read_facts
from moa.router.promotions import history, latest
from moa.storage.object_store import Folder
from tests.evaluation.test_verdict import verdict
from tests.router.artifacts import another_router

NOW = datetime(2026, 11, 26, tzinfo=UTC)


class Routers:
    """A folder of promotions, and candidates with their verdicts."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.folder = Folder(str(home / "routers"))
        self.versions: list[str] = []

    def candidate(self, *, passed: bool = True, made_at: datetime = NOW) -> PromoteRouterConfig:
        number = len(self.versions) + 1
        place = self.home / f"candidate-{number}"
        version = another_router(place, seed=number)
        self.versions.append(version)
        last = latest(self.folder)
        said = verdict(current=last.version if last else None).model_copy(
            update={"router": version, "made_at": made_at, "passed": passed}
        )
        (place / VERDICT).write_bytes(said.json_bytes())
        return PromoteRouterConfig(
            promotions=self.folder.url, artifact=str(place), evaluation=str(place), by="ops"
        )

    @property
    def in_use(self) -> str:
        return read_facts(self.folder.url).version


@pytest.fixture
def routers(tmp_path: Path) -> Routers:
    return Routers(tmp_path)


def test_what_the_gate_has_passed_goes_live_with_its_verdict(routers: Routers) -> None:
    config = routers.candidate()

    done = promote(config, now=NOW)

    assert routers.in_use == done.version == routers.versions[0]
    assert (done.number, done.by, done.reason) == (1, "ops", "the gate was passed")
    assert done.verdict is not None
    kept = routers.folder.read(done.verdict)
    assert kept == Path(config.evaluation, VERDICT).read_bytes()
    assert hashlib.sha256(kept).hexdigest() == done.verdict_sha256


def test_what_it_has_not_passed_does_not(routers: Routers) -> None:
    with pytest.raises(NotPromoted, match="the gate was not passed"):
        promote(routers.candidate(passed=False), now=NOW)

    assert history(routers.folder) == []


def test_a_verdict_counts_for_one_router_in_use_and_for_some_days(routers: Routers) -> None:
    first, second = routers.candidate(), routers.candidate()

    with pytest.raises(NotPromoted, match=r"is 8.0 days old"):
        promote(first, now=NOW + timedelta(days=8))
    promote(first, now=NOW)
    with pytest.raises(NotPromoted, match=f"{routers.versions[0]} is in use by now"):
        promote(second, now=NOW)
    with pytest.raises(NotPromoted, match="in use already, since promotion 1"):
        promote(first, now=NOW)

    assert routers.in_use == routers.versions[0]


def test_without_a_verdict_nothing_goes_live(routers: Routers) -> None:
    config = routers.candidate()
    Path(config.evaluation, VERDICT).unlink()

    with pytest.raises(NotPromoted, match=r"verdict.json is not there: evaluate the router first"):
        promote(config, now=NOW)


def test_a_person_may_overrule_the_gate_on_record(routers: Routers) -> None:
    done = promote(routers.candidate(passed=False), force="the vendor is gone", now=NOW)

    assert routers.in_use == done.version
    assert done.reason == "forced: the vendor is gone (against: the gate was not passed)"


def test_of_two_that_promote_at_once_one_is_told(routers: Routers) -> None:
    configs = [routers.candidate() for _ in range(4)]

    def tried(config: PromoteRouterConfig) -> str:
        try:
            return promote(config, now=NOW).version
        except NotPromoted as refused:
            return str(refused)

    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(tried, configs))

    won = [one for one in said if one in routers.versions]
    assert won == [routers.in_use]
    assert all("meanwhile" in one or "in use by now" in one for one in said if one not in won)
    assert len(history(routers.folder)) == 1


def test_a_rollback_brings_back_the_router_before_byte_by_byte(routers: Routers) -> None:
    promote(routers.candidate(), now=NOW)
    weights = routers.folder.read(f"routers/{routers.in_use}/{WEIGHTS}")
    second = routers.candidate()
    promote(second, now=NOW)

    done = roll_back(second, reason="worse on Tuesday", now=NOW)

    assert routers.in_use == done.version == routers.versions[0]
    assert routers.folder.read(f"routers/{routers.in_use}/{WEIGHTS}") == weights
    assert (done.number, done.restores) == (3, 1)
    assert history_lines(routers.folder)[-1].endswith("by ops: back to 000001, worse on Tuesday")
    with pytest.raises(NotPromoted, match="no router before the one in use"):
        roll_back(second, now=NOW)


def test_a_verdict_that_cannot_be_read_is_told(routers: Routers) -> None:
    config = routers.candidate()
    Path(config.evaluation, VERDICT).write_bytes(b"{}")

    with pytest.raises(ConfigError, match="none of this version"):
        promote(config, now=NOW)
