from __future__ import annotations

import pytest

from moa.catalog import Account
from moa.replay.process import ReplayServer
from tests.providers.batch_contract import BatchContract, Buyer
from tests.replay.asking import CATALOG

ACCOUNT = Account("anthropic", "anthropic", api_key_env="ANTHROPIC_KEY")


@pytest.fixture
def buyer(provider_server: ReplayServer) -> Buyer:
    return Buyer(ACCOUNT, CATALOG.models["anthropic/claude-3.5-sonnet"], provider_server)


class TestAnthropicKeepsTheContract(BatchContract):
    pass
