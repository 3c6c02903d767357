from __future__ import annotations

import pytest

from moa.catalog import Account
from moa.replay.process import ReplayServer
from tests.providers.batch_contract import BatchContract, Buyer
from tests.replay.asking import CATALOG

ACCOUNT = Account("openai", "openai", api_key_env="OPENAI_KEY")


@pytest.fixture
def buyer(provider_server: ReplayServer) -> Buyer:
    return Buyer(ACCOUNT, CATALOG.models["openai/gpt-4o"], provider_server)


class TestOpenAIKeepsTheContract(BatchContract):
    pass
