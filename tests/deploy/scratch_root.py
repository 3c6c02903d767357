"""A root file system over this machine's: what is done in it changes nothing outside.

For the steps of a Dockerfile where there is no container engine. Needs root, and overlayfs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

ENTER = """
mount -t overlay overlay -o "lowerdir=/,upperdir=$UPPER,workdir=$WORK" "$MERGED"
cd "$MERGED"
mkdir -p old-root
mount -t proc proc proc
mount --rbind /dev dev
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t tmpfs -o mode=1777 tmpfs tmp
pivot_root . old-root
umount --lazy /old-root
[ -z "$OFFLINE" ] || ip link set lo up
exec setpriv --reuid="$ENTER_UID" --regid="$ENTER_GID" --clear-groups \\
    env --ignore-environment --chdir="$FOLDER" "$@"
"""
"""pivot_root, not chroot: the kernel gives a process in a chroot no user namespace."""
PASSED_ON = ("PIP_", "SSL_", "HTTP_", "HTTPS_", "http_", "https_", "no_proxy", "REQUESTS_CA_BUNDLE")
"""Names, or how they begin, of what a machine sets for its registry."""


class ScratchRoot:
    """This machine's files, and over them what is written to `folder`.

    Args:
        folder: empty; on a file system that overlayfs can write to.
    """

    def __init__(self, folder: Path) -> None:
        self._upper, self._work, self._merged = (
            folder / name for name in ("upper", "work", "merged")
        )
        for layer in (self._upper, self._work, self._merged):
            layer.mkdir(parents=True)

    def run(
        self,
        command: str,
        *,
        user: tuple[int, int] = (0, 0),
        folder: str = "/",
        env: Mapping[str, str] | None = None,
        online: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run `command` by /bin/sh, and end all that it left running.

        Args:
            command: as in a Dockerfile's RUN.
            user: numbers of the user and its group.
            folder: the working directory.
            env: all that it sees, but for what reaches the registry.
            online: else it has a loopback device and nothing more, of its own: all ports are free.
        """
        unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        if not online:
            unshare.append("--net")
        seen = {k: v for k, v in os.environ.items() if k.startswith(PASSED_ON)} | dict(env or {})
        inside = [f"{name}={value}" for name, value in seen.items()]
        enter = {
            "UPPER": str(self._upper), "WORK": str(self._work), "MERGED": str(self._merged),
            "ENTER_UID": str(user[0]), "ENTER_GID": str(user[1]), "FOLDER": folder,
            "OFFLINE": "" if online else "yes", "PATH": os.environ["PATH"],
        }  # fmt: skip
        return subprocess.run(
            [*unshare, "bash", "-euc", ENTER, "enter", *inside, "/bin/sh", "-c", command],
            env=enter, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def copy(self, source: Path, target: str, owner: tuple[int, int] = (0, 0)) -> None:
        """Copy one file of this machine to `target`, an absolute path inside."""
        there = self._upper / target.lstrip("/")
        missing = [folder for folder in (there.parent, *there.parents) if not folder.exists()]
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, there)
        for path in (there, *missing):
            os.chown(path, *owner)

    def path(self, inside: str) -> Path:
        """Where a file is on this machine; as it was before the first step if none wrote it."""
        written = self._upper / inside.lstrip("/")
        return written if written.exists() else Path(inside)


def refusal(folder: Path) -> str | None:
    """Why there are no scratch roots here."""
    if os.geteuid() != 0:
        return "no scratch root: only root can mount one"
    done = ScratchRoot(folder).run("true")
    if done.returncode != 0:
        return f"no scratch root: {done.stderr.strip()}"
    return None
