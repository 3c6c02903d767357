from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from moa.errors import ConfigError
from moa.grading.sandbox import TOOLS, Limits, Sandbox, open_sandbox
from moa.grading.sandbox_run import Run, Streams
from tests.grading.sandboxes import hostile, sandbox_here

SMALL = Limits(wall_s=60, cpu_s=60, memory_mb=128, file_mb=2, tmp_mb=8, output_kb=64)


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    return sandbox_here()


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    files, children = open_files(), psutil.Process().children(recursive=True)
    yield
    assert psutil.Process().children(recursive=True) == children  # another test's, or none
    assert open_files() == files


def open_files() -> int:
    return psutil.Process().num_fds()


def attack(sandbox: Sandbox, name: str, *, given: str = "", limits: Limits = SMALL) -> Run:
    """Run one of the corpus; nothing that it calls a breach may have happened."""
    run = sandbox.run(
        [sandbox.python, "-u", "-s", "/program/program.py"],
        files={"program.py": hostile(name)},
        streams=Streams(given.encode()),
        limits=limits,
    )
    said = run.stdout.decode(errors="replace") + run.stderr.decode(errors="replace")
    assert "BREACH" not in said, said
    return run


def held(run: Run) -> bool:
    """It came to its end, having tried all."""
    return run.succeeded and run.stdout.decode().rstrip().endswith("held")


@pytest.mark.parametrize(
    "name", ["memory_bomb", "writes_outside", "links", "rights", "raises_limits"]
)
def test_what_a_hostile_program_tries_is_refused(sandbox: Sandbox, name: str) -> None:
    run = attack(sandbox, name)

    assert held(run), run


@pytest.mark.parametrize("name", ["fork_bomb", "endless_loop", "sleeper"])
def test_what_does_not_end_is_ended(sandbox: Sandbox, name: str) -> None:
    run = attack(sandbox, name, limits=SMALL.model_copy(update={"wall_s": 1.0}))

    assert run.ended == "time"
    assert run.exit_code is None


def test_the_time_of_the_processor_has_its_own_limit(sandbox: Sandbox) -> None:
    run = attack(sandbox, "endless_loop", limits=Limits(cpu_s=1, wall_s=60))

    assert (run.ended, run.exit_code) == ("exited", 128 + signal.SIGKILL)


@pytest.mark.parametrize("name", ["endless_output", "endless_error"])
def test_output_without_end_is_cut(sandbox: Sandbox, name: str) -> None:
    run = attack(sandbox, name)

    assert run.ended == "output"
    assert sorted((len(run.stdout), len(run.stderr))) == [0, SMALL.output_kb << 10]


def test_all_processes_together_hold_no_more_than_their_limits(sandbox: Sandbox) -> None:
    limits = Limits(memory_mb=64, processes=6, wall_s=3)

    run = attack(sandbox, "memory_bombs", limits=limits)

    held_mb = [int(line) for line in run.stdout.split()]
    assert held_mb
    assert len(held_mb) < limits.processes
    assert sum(held_mb) < limits.memory_mb * limits.processes


def test_tmp_and_files_have_a_size(sandbox: Sandbox) -> None:
    run = attack(sandbox, "fills_tmp", given=f"{SMALL.tmp_mb} {SMALL.file_mb}")

    assert held(run), run
    assert b"No space left" in run.stdout


def test_nothing_answers_on_the_network(sandbox: Sandbox, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    reached: list[str] = []
    with contextlib.ExitStack() as servers:
        tcp = servers.enter_context(socket.create_server(("127.0.0.1", 0)))
        udp = servers.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", 0))
        path, abstract = str(tmp_path / "s"), f"moa-{os.getpid()}"
        for address in (path, "\0" + abstract):
            local = servers.enter_context(socket.socket(socket.AF_UNIX))
            local.bind(address)
            local.listen()
            local.setblocking(False)
            servers.callback(reached.extend, accepted(local))
        tcp.setblocking(False)
        udp.setblocking(False)
        given = f"{tcp.getsockname()[1]} {udp.getsockname()[1]} {path} {abstract}"

        run = attack(sandbox, "network", given=given)

        assert held(run), run
        for server in (tcp, udp):
            with pytest.raises(BlockingIOError):
                server.recv(1) if server is udp else server.accept()
    assert reached == []


def accepted(server: socket.socket) -> Iterator[str]:
    """Who has connected, when asked for it."""
    with contextlib.suppress(BlockingIOError):
        yield str(server.accept())


def test_files_and_environment_of_the_machine_are_not_there(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("6174-the-secret")
    monkeypatch.setenv("OPENAI_API_KEY", "6174-the-secret")

    run = attack(sandbox, "host_files", given=str(secret))

    assert held(run), run
    assert b"6174" not in run.stdout + run.stderr


def test_no_process_outside_can_be_killed(sandbox: Sandbox) -> None:
    with subprocess.Popen(["sleep", "60"]) as bystander:
        run = attack(sandbox, "kills", given=str(os.getpid()), limits=Limits(wall_s=60))

        assert held(run), run
        assert bystander.poll() is None
        bystander.kill()


def test_a_program_that_kills_all_it_can_ends_only_itself(sandbox: Sandbox) -> None:
    kill_all = "import os; os.kill(-1, 9)"

    sandbox.run([sandbox.python, "-c", kill_all])

    assert sandbox.run(["/usr/bin/true"]).succeeded


def test_daemons_end_with_the_run(sandbox: Sandbox) -> None:
    name = f"moa-daemon-{os.getpid()}"

    run = attack(sandbox, "daemons", given=name)

    assert held(run), run
    assert [p for p in psutil.process_iter(["cmdline"]) if name in str(p.info["cmdline"])] == []


def test_a_fork_bomb_leaves_processes_to_the_runs_beside_it(sandbox: Sandbox) -> None:
    bombs = threading.Event()
    limits = Limits(wall_s=3)

    def bomb() -> Run:
        bombs.set()
        return attack(sandbox, "fork_bomb", limits=limits)

    with ThreadPoolExecutor(2) as beside:
        bombed = beside.submit(bomb)
        bombs.wait()
        children = "import subprocess; print(subprocess.run(['/usr/bin/true']).returncode)"
        runs = [sandbox.run([sandbox.python, "-c", children]) for _ in range(5)]

        assert bombed.result().ended == "time"

    assert [run.stdout for run in runs] == [b"0\n"] * 5


def test_a_run_ends_with_the_process_that_started_it(sandbox: Sandbox) -> None:
    read, write = os.pipe()
    grader = (
        "import sys\n"
        "from moa.grading.sandbox import open_sandbox\n"
        "from moa.grading.sandbox_run import Streams\n"
        "waits = ['/bin/sh', '-c', 'echo here; while :; do sleep 1000; done']\n"
        "open_sandbox().run(waits, streams=Streams(stdout=int(sys.argv[1])))\n"
    )
    with subprocess.Popen([sys.executable, "-c", grader, str(write)], pass_fds=[write]) as process:
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            assert pipe.readline() == b"here\n"

            process.kill()

            # Its end is that of the last process that could write to it.
            assert pipe.read() == b""


def test_a_run_can_be_stopped(sandbox: Sandbox) -> None:
    stop, stopping = os.pipe()
    os.close(stopping)

    run = sandbox.run(["/usr/bin/sleep", "60"], streams=Streams(stop=stop))

    assert (run.ended, run.exit_code) == ("stopped", None)
    os.close(stop)


def test_streams_exit_codes_and_files_arrive(sandbox: Sandbox) -> None:
    script = b"#!/bin/sh\ncat; echo oops >&2; cat /program/data; exit 7\n"
    large = b"0123456789" * 20_000

    run = sandbox.run(
        ["/program/script"],
        files={"script": script, "data": b"\x00\xff"},
        streams=Streams(large),
    )

    assert run.stdout == large + b"\x00\xff"
    assert run.stderr == b"oops\n"
    assert (run.ended, run.exit_code) == ("exited", 7)


def test_folders_that_it_is_given_can_be_read_wherever_they_are() -> None:
    sandbox_here()
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        (Path(folder) / "data").write_text("42")
        (Path(folder) / "python").symlink_to("/usr/bin/python3")

        sandbox = open_sandbox([folder], f"{folder}/python")
        run = sandbox.run(["/bin/sh", "-c", f"cat {folder}/data; echo 43 > {folder}/data"])

        assert run.stdout == b"42"
        assert b"Read-only file system" in run.stderr


def test_what_runs_does_not_see_how_it_was_started(sandbox: Sandbox) -> None:
    seen = "import os; print([fd for fd in range(256) if os.path.lexists(f'/dev/fd/{fd}')]);"
    stat = (
        "\nfor fd in range(3, 256):\n try: os.fstat(fd); print('open', fd)\n except OSError: pass"
    )

    run = sandbox.run([sandbox.python, "-c", seen + stat])

    assert run.stdout == b"[]\n"


def test_a_sandbox_that_cannot_start_is_no_fault_of_the_program(sandbox: Sandbox) -> None:
    tools = {name: shutil.which(name) or "" for name in TOOLS}
    broken = Sandbox(tools, ["/no/such/folder"], sandbox.python)

    run = broken.run(["/usr/bin/true"])

    assert (run.ended, run.exit_code) == ("sandbox", None)
    assert re.search("no/such/folder", run.told())


def test_without_bubblewrap_nothing_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ConfigError, match=r"bwrap, .*cannot be found: install bubblewrap"):
        open_sandbox()


def test_with_a_bubblewrap_that_does_not_work_nothing_is_run(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in TOOLS:
        (tmp_path / name).symlink_to("/bin/false" if name == "bwrap" else shutil.which(name) or "")
    tmp_path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ConfigError, match=r"it runs nothing here .*user namespaces"):
        open_sandbox()


def test_another_interpreter_that_cannot_be_seen_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(ConfigError, match=r"with /nowhere/python: .*No such file"):
        open_sandbox(python="/nowhere/python")
