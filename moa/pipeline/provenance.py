"""What made a run: the code's commit and the versions of what it stands on."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "moa-router", "ray", "pyarrow", "numpy", "openai", "anthropic", "google-genai",
    "genai-prices", "aiohttp",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Package → version, Python first."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a copied tree, as `ray job submit` does
            found[name] = "not installed"
    return found


def git_commit() -> str:
    """The commit of the checkout that this file is in, `+changes` where it was altered.

    `unknown` outside of a checkout.
    """
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return "unknown"
    try:
        commit = _git(root, "rev-parse", "--short=12", "HEAD")
        altered = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}+changes" if altered else commit


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
