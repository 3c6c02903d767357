from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from moa.errors import RunError
from moa.storage.object_store import Folder
from moa.storage.run_lock import Patience, run_lock

FAST = Patience(renew_s=0.2, stale_s=5.0)


def nobody() -> None:
    raise AssertionError("the lock was not lost")


@pytest.fixture(params=["disk", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "disk":
        return str(tmp_path / "run")
    return f"{request.getfixturevalue('object_store')}/run"


def test_a_held_run_is_refused_with_its_holder(url: str) -> None:
    with (
        run_lock(url, nobody, FAST),
        pytest.raises(RunError, match=f"worked on by process {os.getpid()}"),
        run_lock(url, nobody, FAST),
    ):
        pass


@pytest.mark.parametrize(("place", "helps"), [("", True), ("/redrives/001", False)])
def test_what_is_told_of_a_held_run_helps(url: str, place: str, helps: bool) -> None:
    with (
        run_lock(url + place, nobody, FAST),
        pytest.raises(RunError) as caught,
        run_lock(url + place, nobody, FAST),
    ):
        pass

    assert ("--set run.id" in str(caught.value)) == helps
    assert "wait for it" in str(caught.value)


def test_a_released_run_can_be_held_again(url: str) -> None:
    for _ in range(2):
        with run_lock(url, nobody, FAST):
            pass


def hold(url: str, held: Event) -> None:
    with run_lock(url, nobody, FAST):
        held.set()
        threading.Event().wait(60)


def test_a_killed_holder_is_followed_by_the_next(url: str) -> None:
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    holder = context.Process(target=hold, args=(url, held))
    holder.start()
    assert held.wait(30)
    assert holder.pid is not None

    os.kill(holder.pid, signal.SIGKILL)
    holder.join()

    with run_lock(url, nobody, FAST):
        pass


def test_of_many_that_find_a_dead_holders_lock_one_takes_it(object_store: str) -> None:
    url = f"{object_store}/run"
    Folder(url).put("lock.json", b'{"lock": "dead", "who": "process 1 on gone"}')
    inside = threading.Semaphore(0)
    refused: list[str] = []

    def hold_for_a_while() -> None:
        try:
            with run_lock(url, nobody, FAST):
                inside.release()
                done.wait(20)
        except RunError as error:
            refused.append(str(error))

    done = threading.Event()
    threads = [threading.Thread(target=hold_for_a_while) for _ in range(6)]
    for thread in threads:
        thread.start()
    assert inside.acquire(timeout=20)
    for _ in range(200):
        if len(refused) == 5:
            break
        threading.Event().wait(0.1)
    done.set()
    for thread in threads:
        thread.join()

    assert len(refused) == 5
    assert not inside.acquire(blocking=False)


def test_a_holder_learns_that_its_run_was_taken_over(object_store: str) -> None:
    url = f"{object_store}/run"
    lost = threading.Event()

    with run_lock(url, lost.set, FAST):
        Folder(url).put("lock.json", b'{"lock": "theirs", "who": "them"}')

        assert lost.wait(10)
    assert Folder(url).read("lock.json") is not None
