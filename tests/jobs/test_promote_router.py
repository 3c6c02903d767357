"""`jobs/promote_router.py` as a person runs it."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from moa.router.facts import read_facts
from tests.evaluation.test_promotion import Routers
from tests.jobs.conftest import ROOT


def promote(routers: Routers, *flags: str, passed: bool = True) -> subprocess.CompletedProcess[str]:
    given = routers.candidate(passed=passed, made_at=datetime.now(UTC))
    config = routers.home / "promote.toml"
    config.write_text(
        f'promotions = "{given.promotions}"\nartifact = "{given.artifact}"\n'
        f'evaluation = "{given.evaluation}"\nby = "ops"\n'
    )
    command = [sys.executable, "jobs/promote_router.py", "--config", str(config), *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_router_goes_live_is_overruled_and_goes_back(tmp_path: Path) -> None:
    routers = Routers(tmp_path)

    nothing = promote(routers, "--history")
    first = promote(routers)
    refused = promote(routers, passed=False)
    forced = promote(routers, "--force", "the vendor is gone", passed=False)
    back = promote(routers, "--rollback", "--reason", "worse on Tuesday")
    told = promote(routers, "--history")

    codes = [one.returncode for one in (nothing, first, refused, forced, back, told)]
    assert codes == [0, 0, 1, 0, 0, 0]
    assert nothing.stdout == "nothing was promoted yet\n"
    assert first.stdout.startswith("promotion 1 of")
    assert refused.stderr.startswith("REFUSED: router")
    assert "FORCED past the gate, on record: forced: the vendor is gone" in forced.stderr
    assert read_facts(routers.folder.url).version == routers.versions[1]
    lines = told.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["000001", "000002", "000003"]
    assert lines[-1].endswith("by ops: back to 000001, worse on Tuesday")


def test_a_config_with_nothing_behind_it_is_an_error(tmp_path: Path) -> None:
    config = tmp_path / "promote.toml"
    config.write_text('promotions = "x"\nartifact = "nowhere"\nevaluation = "nowhere"\n')
    command = [sys.executable, "jobs/promote_router.py", "--config", str(config)]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert done.stderr.startswith("ArtifactError: nowhere/artifact.json is not there")
