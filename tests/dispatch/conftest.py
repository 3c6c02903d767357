"""A piece that is bought in batches, of each kind of vendor."""

from __future__ import annotations

from pathlib import Path

import pytest

from moa.replay.process import ReplayServer
from tests.dispatch.batch_night import KINDS, Night


@pytest.fixture
def night(provider_server: ReplayServer, tmp_path: Path) -> Night:
    night = Night(provider_server, tmp_path, "openai")
    night.script()
    return night


@pytest.fixture
def anthropic(provider_server: ReplayServer, tmp_path: Path) -> Night:
    night = Night(provider_server, tmp_path, "anthropic")
    night.script()
    return night


@pytest.fixture(params=KINDS)
def any_night(
    request: pytest.FixtureRequest,
    provider_server: ReplayServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Night:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", provider_server.url)
    night = Night(provider_server, tmp_path, request.param)
    night.script()
    return night
