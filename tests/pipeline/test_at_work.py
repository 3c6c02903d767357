from __future__ import annotations

from pathlib import Path

from moa.pipeline.at_work import AtWork
from moa.storage.run_folder import RunFolder
from tests.conftest import FakeClock


def noted(run: RunFolder, number: int) -> dict[str, object]:
    return run.starts()[number]


def test_a_start_is_known_before_it_has_ended(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))

    with AtWork(run):
        during = noted(run, 0)

    assert during["from"] <= during["to"] <= noted(run, 0)["to"]  # type: ignore[operator]


def test_each_start_is_noted_for_itself(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))

    for _ in range(2):
        with AtWork(run):
            pass

    assert len(run.starts()) == 2
    assert noted(run, 0)["to"] <= noted(run, 1)["from"]  # type: ignore[operator]


def test_the_routers_machines_are_paid_for_as_long_as_they_were_held(
    tmp_path: Path, clock: FakeClock
) -> None:
    run = RunFolder(str(tmp_path))

    with AtWork(run, clock=clock) as killed_while_scoring:
        killed_while_scoring.router_begins(3)
        clock.advance(10)
    with AtWork(run, clock=clock) as finished:
        finished.router_begins(1)
        clock.advance(5)
        finished.router_ends()
        clock.advance(100)

    assert noted(run, 0)["router_s"] == 30
    assert noted(run, 1)["router_s"] == 5
