from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import psutil
import pytest

from moa.grading.processes import IsolatedFunction

CALLER = """
import sys
from moa.grading.processes import IsolatedFunction
call = IsolatedFunction("tests.grading.stuck:obey", limit_s=1)
print(call(["pid"]).value, flush=True)
call([sys.argv[1]])
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def isolated() -> Iterator[IsolatedFunction]:
    function = IsolatedFunction(
        "tests.grading.stuck:obey", limit_s=1.0, memory_bytes=1 << 30, start_limit_s=60
    )
    yield function
    function.close()


def test_a_value_comes_back(isolated: IsolatedFunction) -> None:
    value = {"a": [1, None, "é\n"]}

    assert isolated(["echo", value]) == (value, "")


def test_calls_share_one_process_that_is_not_ours(isolated: IsolatedFunction) -> None:
    first, second = isolated(["pid"]).value, isolated(["pid"]).value

    assert first == second
    assert psutil.Process(first).ppid() == psutil.Process().pid


def test_it_knows_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-job")
    with contextlib.closing(
        IsolatedFunction("tests.grading.stuck:obey", limit_s=10, memory_bytes=1 << 30)
    ) as isolated:
        known = isolated(["environ"]).value

    assert "PATH" in known
    assert "OPENAI_API_KEY" not in known


@pytest.mark.parametrize("how", ["hang", "compute"])
def test_a_call_that_does_not_end_is_lost_and_the_next_is_not(
    isolated: IsolatedFunction, how: str
) -> None:
    before = isolated(["pid"]).value

    assert isolated([how]) == (None, "took longer than 1 s")

    assert not psutil.pid_exists(before)
    assert isolated(["echo", 1]) == (1, "")


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        (["exit", 7], "its process ended with code 7"),
        (["crash"], "its process was ended by SIGSEGV"),
        (["leave"], "its process ended with code 3"),
        (["return_bytes"], "its process ended with code 1"),
    ],
)
def test_a_process_that_dies_costs_one_call(
    isolated: IsolatedFunction, order: list[object], reason: str
) -> None:
    assert isolated(order) == (None, reason)

    assert isolated(["echo", 1]) == (1, "")


def test_an_exception_costs_one_call_and_no_process(isolated: IsolatedFunction) -> None:
    before = isolated(["pid"]).value

    assert isolated(["fail"]) == (None, "raised LookupError: not here")

    assert isolated(["pid"]).value == before


def test_memory_is_limited(isolated: IsolatedFunction) -> None:
    assert isolated(["allocate", 100]).value == 100 << 20

    assert isolated(["allocate", 4000]).lost.startswith("raised MemoryError")


def test_a_reply_without_end_is_lost(isolated: IsolatedFunction) -> None:
    assert isolated(["flood", 8]).lost

    assert isolated(["echo", 1]) == (1, "")


def test_what_it_prints_is_no_reply(isolated: IsolatedFunction) -> None:
    assert isolated(["shout"]) == ("said", "")


def test_signals_work_there_even_when_called_from_a_thread(isolated: IsolatedFunction) -> None:
    seen = []

    def call() -> None:
        seen.extend([isolated(["is_main_thread"]).value, isolated(["alarm_rings"]).value])

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()

    assert seen == [True, True]


def test_what_it_started_ends_with_it(isolated: IsolatedFunction) -> None:
    child = psutil.Process(isolated(["start_child"]).value)

    isolated(["hang"])

    psutil.wait_procs([child], timeout=10)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_function_that_is_not_there_is_said_with_each_call() -> None:
    missing = IsolatedFunction("tests.grading.stuck:no_such", limit_s=1)

    assert "tests.grading.stuck:no_such did not start" in missing(1).lost
    assert "did not start" in missing(1).lost


def test_a_closed_function_ends_its_process_and_starts_again(isolated: IsolatedFunction) -> None:
    first = isolated(["pid"]).value

    isolated.close()

    assert not psutil.pid_exists(first)
    assert isolated(["pid"]).value != first


def test_a_forgotten_function_ends_its_process() -> None:
    function = IsolatedFunction("tests.grading.stuck:obey", limit_s=5)
    process = psutil.Process(function(["pid"]).value)

    del function
    gc.collect()

    assert not process.is_running()


@pytest.mark.slow  # it takes two seconds of CPU time, which may be long on a busy machine
@pytest.mark.parametrize("busy_with", ["pid", "compute"])
def test_a_killed_caller_leaves_nothing_that_computes(busy_with: str) -> None:
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER, busy_with],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert caller.stdout is not None
    process = psutil.Process(int(caller.stdout.readline()))

    caller.kill()
    caller.communicate()

    psutil.wait_procs([process], timeout=200)  # by the end of its socket, or its CPU time
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_an_interrupted_call_leaves_no_answer_for_the_next(isolated: IsolatedFunction) -> None:
    class Interrupted(BaseException):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupted

    assert isolated(["echo", 1]).value == 1
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with pytest.raises(Interrupted):
            isolated(["interrupt", os.getpid()])
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert isolated(["echo", 2]).value == 2
