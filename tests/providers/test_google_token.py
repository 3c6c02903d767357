from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import orjson
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from moa.catalog import Account
from moa.errors import KeyRefused, TransientError
from moa.providers.accounts import open_provider
from moa.providers.google_token import GoogleToken
from moa.providers.provider import Request
from tests.providers.dialects import GeminiDialect, a_chat
from tests.providers.vendor_server import VendorServer, answer


@pytest.fixture(scope="module")
def private_key() -> str:
    key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    encoded = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return encoded.decode()


@pytest.fixture
def credentials_file(tmp_path: Path, private_key: str, vendor_server: VendorServer) -> Path:
    """A service account whose tokens come from the test's own server."""
    path = tmp_path / "service_account.json"
    document = {
        "type": "service_account",
        "project_id": "our-project",
        "private_key_id": "1",
        "private_key": private_key,
        "client_email": "moa@our-project.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": vendor_server.base_url + "/token",
    }
    path.write_bytes(orjson.dumps(document))
    return path


def a_token(text: str, *, expires_in_s: int = 3_600) -> object:
    return {"access_token": text, "expires_in": expires_in_s, "token_type": "Bearer"}


async def test_vertex_is_called_with_the_service_accounts_token(
    vendor_server: VendorServer, credentials_file: Path
) -> None:
    dialect = GeminiDialect()
    vendor_server.script(answer(a_token("t1")), dialect.ok("Paris"))
    account = Account("vertex", "gemini", vendor_server.base_url, location="europe-west4")
    environ = {
        "GOOGLE_CLOUD_PROJECT": "our-project",
        "GOOGLE_APPLICATION_CREDENTIALS": str(credentials_file),
    }
    provider = open_provider(account, environ=environ)

    for _ in range(2):
        await provider.complete(Request("q1", a_chat(), dialect.model), timeout_s=10)

    await provider.close()
    token_call, first, second = vendor_server.requests
    assert token_call.path == "/token"
    assert first.headers["authorization"] == second.headers["authorization"] == "Bearer t1"
    assert first.path == (
        "/v1beta1/projects/our-project/locations/europe-west4"
        "/publishers/google/models/gemini-3-flash:generateContent"
    )


async def test_callers_at_once_share_one_refresh(
    vendor_server: VendorServer, credentials_file: Path
) -> None:
    vendor_server.script(answer(a_token("t1")))
    token = GoogleToken(str(credentials_file))

    headers = await asyncio.gather(*[token.headers() for _ in range(20)])

    assert {each["Authorization"] for each in headers} == {"Bearer t1"}
    assert len(vendor_server.requests) == 1


async def test_a_token_near_its_end_is_used_while_the_next_is_fetched(
    vendor_server: VendorServer, credentials_file: Path
) -> None:
    vendor_server.script(answer(a_token("t1", expires_in_s=120)), answer(a_token("t2")))
    token = GoogleToken(str(credentials_file))

    first = await token.headers()
    meanwhile = await token.headers()
    later = await renewed(token, meanwhile)

    assert first["Authorization"] == meanwhile["Authorization"] == "Bearer t1"
    assert later["Authorization"] == "Bearer t2"
    assert len(vendor_server.requests) == 2


async def renewed(token: GoogleToken, old: Mapping[str, str]) -> Mapping[str, str]:
    """The headers once they are others."""
    async with asyncio.timeout(10):
        while (headers := await token.headers()) == old:  # noqa: ASYNC110 - nobody's to await
            await asyncio.sleep(0.01)
    return headers


async def test_a_refused_service_account_refuses_the_account(
    vendor_server: VendorServer, credentials_file: Path
) -> None:
    vendor_server.script(answer({"error": "invalid_grant"}, status=400))

    with pytest.raises(KeyRefused, match="no Google token"):
        await GoogleToken(str(credentials_file)).headers()


async def test_a_missing_token_server_may_come_back(credentials_file: Path) -> None:
    path = moved(credentials_file, "http://127.0.0.1:1/token")

    with pytest.raises(TransientError, match="no Google token"):
        await GoogleToken(str(path)).headers()


def moved(credentials_file: Path, token_uri: str) -> Path:
    """The same service account with its tokens elsewhere."""
    document = orjson.loads(credentials_file.read_bytes())
    path = credentials_file.with_name("elsewhere.json")
    path.write_bytes(orjson.dumps({**document, "token_uri": token_uri}))
    return path
