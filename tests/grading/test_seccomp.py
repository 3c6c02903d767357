from __future__ import annotations

import errno
import struct

import pytest

from moa.errors import ConfigError
from moa.grading.seccomp import ALLOW, AUDIT_NAMES, ERRNO, KILL_PROCESS, REFUSED, program_filter

MACHINES = {"x86_64": 0, "aarch64": 1}


def verdict(machine: str, number: int, *arguments: int, architecture: int = 0) -> int:
    """What the kernel would do: the filter run as the kernel's documentation says."""
    call = struct.pack(
        "<iIQ6Q",
        number,
        architecture or AUDIT_NAMES[machine],
        0,
        *arguments,
        *[0] * (6 - len(arguments)),
    )
    program = list(struct.iter_unpack("<HBBI", program_filter(machine)))
    at = value = 0
    while True:
        code, then, otherwise, operand = program[at]
        if code == 0x06:
            return int(operand)
        if code == 0x20:
            value = struct.unpack_from("<I", call, operand)[0]
        else:
            jump = {
                0x15: value == operand,
                0x35: value >= operand,
                0x45: bool(value & operand),
            }[code]
            at += then if jump else otherwise
        at += 1


@pytest.mark.parametrize("machine", MACHINES)
def test_every_listed_call_is_refused_and_others_are_not(machine: str) -> None:
    listed = {numbers[MACHINES[machine]] for numbers in REFUSED.values()} - {None}

    refused = {n for n in range(462) if verdict(machine, n) == ERRNO | errno.EPERM}

    assert refused == listed
    assert verdict(machine, 0) == ALLOW


@pytest.mark.parametrize(
    ("machine", "clone", "socket"), [("x86_64", 56, 41), ("aarch64", 220, 198)]
)
def test_arguments_decide_about_children_and_sockets(machine: str, clone: int, socket: int) -> None:
    thread, user_namespace, child = 0x3D0F00, 0x10000000, 17

    assert verdict(machine, clone, thread) == ALLOW
    assert verdict(machine, clone, child) == ALLOW
    assert verdict(machine, clone, child | user_namespace) == ERRNO | errno.EPERM
    assert verdict(machine, 435) == ERRNO | errno.ENOSYS
    assert [f for f in range(46) if verdict(machine, socket, f) == ALLOW] == [1, 2, 10]


def test_calls_by_another_table_end_the_program() -> None:
    assert verdict("x86_64", 11, architecture=0x40000003) == KILL_PROCESS
    assert verdict("x86_64", 0x40000000 | 101) == KILL_PROCESS
    assert verdict("aarch64", 11, architecture=0x40000028) == KILL_PROCESS


def test_a_machine_without_a_table_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"graded on riscv64: .* knows x86_64 and aarch64"):
        program_filter("riscv64")
