"""Fixtures of the replay server's tests: each vendor in turn."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import anthropic
import google.auth.credentials
import openai
import pytest
from google import genai
from google.cloud import storage
from google.genai import types

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


@pytest.fixture
def gpt(provider_server: ReplayServer) -> Iterator[openai.OpenAI]:
    url = provider_server.base_url("openai")
    with openai.OpenAI(api_key="key", base_url=url, max_retries=0) as client:
        yield client


@pytest.fixture
def claude(provider_server: ReplayServer) -> Iterator[anthropic.Anthropic]:
    url = provider_server.base_url("anthropic")
    with anthropic.Anthropic(api_key="key", base_url=url, max_retries=0) as client:
        yield client


class Anybody(google.auth.credentials.Credentials):
    """A token that never has to be fetched."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.token = "token"

    def refresh(self, request: object) -> None:
        raise AssertionError("asked for another token")


@pytest.fixture
def gemini(provider_server: ReplayServer) -> genai.Client:
    options = types.HttpOptions(base_url=provider_server.base_url("gemini"))
    return genai.Client(api_key="key", http_options=options)


@pytest.fixture
def vertex(provider_server: ReplayServer) -> genai.Client:
    options = types.HttpOptions(base_url=provider_server.base_url("gemini"))
    return genai.Client(
        vertexai=True,
        project="ours",
        location="europe-west4",
        credentials=Anybody(),
        http_options=options,
    )


@pytest.fixture
def gcs(provider_server: ReplayServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[storage.Client]:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", provider_server.url)
    client = storage.Client(project="ours", credentials=Anybody())
    yield client
    client.close()
