from __future__ import annotations

import pytest

from moa.catalog import Account
from moa.replay.process import ReplayServer
from tests.providers.batch_contract import BatchContract, Buyer
from tests.replay.asking import CATALOG

ACCOUNT = Account(
    "vertex",
    "gemini",
    api_key_env="VERTEX_KEY",
    project_env="PROJECT",
    location="europe-west4",
    batch_folder="gs://ours/batches",
)


@pytest.fixture
def buyer(provider_server: ReplayServer, monkeypatch: pytest.MonkeyPatch) -> Buyer:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", provider_server.url)
    return Buyer(ACCOUNT, CATALOG.models["google/gemini-1.5-pro"], provider_server)


class TestVertexKeepsTheContract(BatchContract):
    pass
