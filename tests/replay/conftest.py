"""Fixtures of the replay server's tests: each vendor in turn."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from moa.catalog import Account, Model
from moa.providers.accounts import open_provider
from moa.providers.provider import Provider
from moa.replay.process import ReplayServer
from tests.replay.asking import CATALOG, MODELS


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Model:
    return CATALOG.models[MODELS[request.param]]


@pytest.fixture
def account(model: Model) -> Account:
    return CATALOG.accounts[model.provider]


@pytest.fixture
async def provider(provider_server: ReplayServer, account: Account) -> AsyncIterator[Provider]:
    environ = {account.api_key_env or "": "key"}
    url = provider_server.base_url(account.wire)
    provider = open_provider(account, environ=environ, base_url=url)
    yield provider
    await provider.close()
