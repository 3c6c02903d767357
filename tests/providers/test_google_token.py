from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import orjson
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import exceptions

from moa.catalog import Account
from moa.errors import KeyRefused, TransientError
from moa.providers.accounts import open_provider
from moa.providers.google_token import GoogleToken, failure
from moa.providers.provider import Request
from tests.providers.dialects import GeminiDialect, a_chat
from tests.providers.vendor_server import Scripted, VendorServer, answer


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


async def test_a_token_server_that_fails_may_come_back(
    vendor_server: VendorServer, credentials_file: Path
) -> None:
    """At once, because google.auth itself tries three times over three seconds."""
    statuses = [500, 502, 503, 429]
    vendor_server.script_by_path(
        {f"/{status}": Scripted(status=status, body=b"<html>Sorry</html>") for status in statuses}
    )
    paths = [
        changed(credentials_file, f"{n}.json", token_uri=f"{vendor_server.base_url}/{n}")
        for n in statuses
    ]

    errors = await asyncio.gather(
        *[GoogleToken(str(path)).headers() for path in paths], return_exceptions=True
    )

    assert [type(error) for error in errors] == [TransientError] * 4
    assert {error.code for error in errors if isinstance(error, TransientError)} == {"token"}


async def test_a_token_server_that_answers_something_else_may_come_back(
    vendor_server: VendorServer, credentials_file: Path
) -> None:
    vendor_server.script(Scripted(body=b"<html>Log in to the network</html>"))

    with pytest.raises(TransientError, match="no Google token"):
        await GoogleToken(str(credentials_file)).headers()


def test_a_metadata_server_that_is_away_may_come_back() -> None:
    """google.auth wraps what it meets there, and tries for 15 seconds."""
    wrapped = exceptions.RefreshError("no metadata")  # type: ignore[no-untyped-call]
    wrapped.__cause__ = exceptions.TransportError("503")  # type: ignore[no-untyped-call]

    assert isinstance(failure(wrapped, None), TransientError)
    assert isinstance(failure(wrapped.__cause__, None), TransientError)


@pytest.mark.parametrize(
    "document",
    [
        {"private_key": "-----BEGIN PRIVATE KEY-----\nbroken\n-----END PRIVATE KEY-----\n"},
        {"private_key": 7},
        {"type": "authorized_user", "refresh_token": None},
    ],
)
async def test_a_broken_credentials_file_refuses_the_account(
    monkeypatch: pytest.MonkeyPatch, credentials_file: Path, document: dict[str, object]
) -> None:
    path = str(changed(credentials_file, **document))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", path)

    with pytest.raises(KeyRefused, match="no Google token") as caught:
        await GoogleToken(path).headers()

    assert "PRIVATE KEY" not in str(caught.value)


async def test_waiting_for_a_token_is_part_of_the_calls_time(
    vendor_server: VendorServer, credentials_file: Path
) -> None:
    vendor_server.script(Scripted(body=b"{}", hang=True))
    account = Account("vertex", "gemini", vendor_server.base_url, location="europe-west4")
    environ = {
        "GOOGLE_CLOUD_PROJECT": "our-project",
        "GOOGLE_APPLICATION_CREDENTIALS": str(credentials_file),
    }
    provider = open_provider(account, environ=environ)

    with pytest.raises(TransientError) as caught:
        await provider.complete(Request("q1", a_chat(), GeminiDialect().model), timeout_s=0.3)

    await provider.close()
    assert caught.value.code == "token"
    assert not caught.value.maybe_billed


async def test_a_missing_token_server_may_come_back(credentials_file: Path) -> None:
    path = changed(credentials_file, token_uri="http://127.0.0.1:1/token")

    with pytest.raises(TransientError, match="no Google token"):
        await GoogleToken(str(path)).headers()


def changed(credentials_file: Path, name: str = "changed.json", /, **fields: object) -> Path:
    """The same service account with other fields."""
    document = orjson.loads(credentials_file.read_bytes())
    path = credentials_file.with_name(name)
    path.write_bytes(orjson.dumps({**document, **fields}))
    return path
