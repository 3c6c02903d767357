"""Wait until nobody is connected to the endpoint on this pod: its preStop hook.

Kubernetes ends the pod after `terminationGracePeriodSeconds` whatever this does; without it, Ray
would end at once, and with it every stream that is under way. Standard library only.

    python wait_for_streams.py FIRST_S PORT[-PORT] …
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

TABLES = ("/proc/net/tcp", "/proc/net/tcp6")
ESTABLISHED = "01"
EVERY_S = 1.0
"""The kernel tells nobody when a connection ends."""


def local_ports() -> Iterator[int]:
    """The port on this side of each connection that is open."""
    for table in map(Path, TABLES):
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            local, _, state = line.split()[1:4]
            if state == ESTABLISHED:
                yield int(local.rsplit(":", 1)[1], 16)


def ports(words: list[str]) -> set[int]:
    """`8000` and `30000-31000` as all ports that they name."""
    named: set[int] = set()
    for word in words:
        first, _, last = word.partition("-")
        named |= set(range(int(first), int(last or first) + 1))
    return named


def main(first_s: str, *words: str) -> None:
    """Wait `first_s`, in which load balancers hear of it, and then for the connections to end."""
    time.sleep(float(first_s))
    ours = ports(list(words))
    while ours & set(local_ports()):
        time.sleep(EVERY_S)


if __name__ == "__main__":
    main(*sys.argv[1:])
