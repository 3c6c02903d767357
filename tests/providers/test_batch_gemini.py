from __future__ import annotations

import pytest

from moa.catalog import Account
from moa.replay.process import ReplayServer
from tests.providers.batch_contract import BatchContract, Buyer
from tests.replay.asking import CATALOG

ACCOUNT = Account("google", "gemini", api_key_env="GEMINI_KEY")


@pytest.fixture
def buyer(provider_server: ReplayServer) -> Buyer:
    return Buyer(ACCOUNT, CATALOG.models["google/gemini-1.5-pro"], provider_server)


class TestGeminiKeepsTheContract(BatchContract):
    keeps_when_expired = False
