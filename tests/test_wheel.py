"""The built wheel, away from the checkout: code, router, recordings and page are in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
USE = """
from moa.replay.process import replay_server
from moa.reports.page import render_html
from moa.router.router import Router
from moa.training.dataset import read_dataset
import moa, pathlib
router = Router.load("moa/router/embedded")
print(router.score(["What is 2 + 2?"], router.facts.models).expected_grade.shape)
with replay_server() as server:
    print(server.ledger())
print(pathlib.Path(moa.__file__).parent)
"""


@pytest.mark.slow
def test_the_wheel_works_away_from_the_checkout(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    tree = tmp_path / "tree"
    clone = ["git", "clone", "--quiet", "--depth", "1", f"file://{ROOT}", str(tree)]
    subprocess.run(clone, check=True)
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path)]
    subprocess.run([*build, str(tree)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)

    done = subprocess.run(
        [sys.executable, "-c", USE], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(site)},
    )  # fmt: skip

    assert done.stdout.splitlines() == ["(1, 6)", "[]", str(site / "moa")]
