"""The system calls that a program under test may not make, as a filter for the kernel.

Two kinds are refused: what reaches past the namespaces that hold the program (tracing, mounting,
keys, kernel modules, sockets to the machine that hosts a virtual one), and what takes memory that
no limit of a process counts (shared segments, message queues, files in memory). All else is left to
the namespaces and the limits.

Source: the kernel's `Documentation/userspace-api/seccomp_filter.rst`, `linux/bpf_common.h`,
`linux/audit.h`; numbers from `asm/unistd_64.h` and `asm-generic/unistd.h`.
"""

from __future__ import annotations

import errno
import platform
import struct

from moa.errors import ConfigError

LOAD_WORD, JUMP_IF_EQUAL, JUMP_IF_AT_LEAST, JUMP_IF_ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER, ARCHITECTURE, FIRST_ARGUMENT, SECOND_ARGUMENT = 0, 4, 16, 24
"""Where `struct seccomp_data` has them; of an argument, the lower half (both are little-endian)."""
ALLOW, ERRNO, KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000

AUDIT_NAMES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32_BIT = 0x40000000
"""Numbers from here on are the same calls by another table, which this filter does not list."""

# x86_64, aarch64; `None`: there is no such call.
REFUSED: dict[str, tuple[int | None, int | None]] = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "fanotify_init": (300, 262),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "unshare": (272, 97),
    "setns": (308, 268),
    "chroot": (161, 51),
    "pivot_root": (155, 41),
    "mount": (165, 40),
    "umount2": (166, 39),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "syslog": (103, 116),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
}
CLONE, CLONE3, SOCKET, SOCKETPAIR, IOCTL = (56, 220), (435, 435), (41, 198), (53, 199), (16, 29)
NEW_NAMESPACES = 0x7E020080
"""The CLONE_NEW… flags: time, mount, cgroup, uts, ipc, user, pid, net."""
FAMILIES = (1, 2, 10)
"""AF_UNIX, AF_INET, AF_INET6: the network namespace holds them. A virtual machine's AF_VSOCK, for
one, is in none."""
TERMINAL_INPUT = (0x5412, 0x541C)
"""TIOCSTI and TIOCLINUX type into a terminal."""


def program_filter(machine: str = "") -> bytes:
    """The filter in the form that bubblewrap's `--seccomp` reads.

    Args:
        machine: as `platform.machine()` says it, which is the default.

    Raises:
        ConfigError: the calls of this kind of machine have no table here.
    """
    machine = machine or platform.machine()
    if machine not in AUDIT_NAMES:
        known = " and ".join(AUDIT_NAMES)
        raise ConfigError(
            f"code cannot be graded on {machine}: the sandbox's filter of system calls knows "
            f"{known}; grade code on such a machine"
        )
    column = list(AUDIT_NAMES).index(machine)
    lines = [
        line(LOAD_WORD, ARCHITECTURE),
        line(JUMP_IF_EQUAL, AUDIT_NAMES[machine], then=1),
        line(RETURN, KILL_PROCESS),
        line(LOAD_WORD, NUMBER),
    ]
    if machine == "x86_64":
        lines += [line(JUMP_IF_AT_LEAST, X32_BIT, otherwise=1), line(RETURN, KILL_PROCESS)]
    for numbers in REFUSED.values():
        number = numbers[column]
        if number is not None:
            lines += refusal(number, errno.EPERM)
    # A library that gets ENOSYS falls back to `clone`, whose flags can be read.
    lines += refusal(CLONE3[column], errno.ENOSYS)
    lines += by_argument(CLONE[column], clone_flags())
    lines += by_argument(SOCKET[column], families())
    lines += by_argument(SOCKETPAIR[column], families())
    lines += by_argument(IOCTL[column], terminal_input())
    return b"".join([*lines, line(RETURN, ALLOW)])


def line(code: int, value: int, *, then: int = 0, otherwise: int = 0) -> bytes:
    """One instruction; `then` and `otherwise` say how many to leap over."""
    return struct.pack("<HBBI", code, then, otherwise, value)


def refusal(number: int, error: int) -> list[bytes]:
    """The call fails with `error`."""
    return [line(JUMP_IF_EQUAL, number, otherwise=1), line(RETURN, ERRNO | error)]


def by_argument(number: int, checks: list[bytes]) -> list[bytes]:
    """For this call only, what its arguments decide; `checks` end in a verdict."""
    return [line(JUMP_IF_EQUAL, number, otherwise=len(checks)), *checks]


def clone_flags() -> list[bytes]:
    """No namespace of its own for a child."""
    return [
        line(LOAD_WORD, FIRST_ARGUMENT),
        line(JUMP_IF_ANY_BIT, NEW_NAMESPACES, otherwise=1),
        line(RETURN, ERRNO | errno.EPERM),
        line(RETURN, ALLOW),
    ]


def families() -> list[bytes]:
    """No socket but those that a network namespace holds."""
    allowed = [
        each
        for family in FAMILIES
        for each in (line(JUMP_IF_EQUAL, family, otherwise=1), line(RETURN, ALLOW))
    ]
    refused = line(RETURN, ERRNO | errno.EAFNOSUPPORT)
    return [line(LOAD_WORD, FIRST_ARGUMENT), *allowed, refused]


def terminal_input() -> list[bytes]:
    """Nothing is typed for somebody else."""
    refused = [each for request in TERMINAL_INPUT for each in refusal(request, errno.EPERM)]
    return [line(LOAD_WORD, SECOND_ARGUMENT), *refused, line(RETURN, ALLOW)]
