from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from moa.catalog import Account, load_catalog
from moa.errors import ConfigError, KeyRefused
from moa.providers.accounts import BATCH_LIMITS, batch_kind, check_batches, open_batches
from tests.providers.batch_vendor import batch_vendor

_NOW = datetime(2026, 11, 25, tzinfo=UTC)
VERTEX = Account("v", "gemini", project_env="PROJECT", location="eu", batch_folder="gs://b/f")


@pytest.mark.parametrize(
    ("account", "kind"),
    [
        (Account("a", "openai"), "openai"),
        (Account("a", "anthropic"), "anthropic"),
        (Account("a", "gemini", api_key_env="KEY"), "gemini"),
        (Account("a", "gemini"), "vertex"),
        (Account("a", "gemini", api_key_env="KEY", project_env="PROJECT"), "vertex"),
    ],
)
def test_batches_are_bought_as_the_account_says(account: Account, kind: str) -> None:
    assert batch_kind(account) == kind


async def test_limits_are_known_without_opening_anything() -> None:
    for account in (Account("a", "openai"), Account("a", "anthropic"), VERTEX):
        environ = {"OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k", "PROJECT": "p"}
        batches = open_batches(account, environ=environ)
        try:
            assert batches.limits == BATCH_LIMITS[batch_kind(account)]
            check_batches(account, environ)
        finally:
            await batches.close()


def test_what_a_live_call_needs_batches_need_too() -> None:
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        check_batches(Account("a", "openai"), {})
    with pytest.raises(ConfigError, match="PROJECT"):
        check_batches(VERTEX, {})


def _catalog(tmp_path: Path, folder: str) -> Path:
    path = tmp_path / "catalog.toml"
    path.write_text(f"""
        [accounts.v]
        wire = "gemini"
        batch_folder = "{folder}"
        [models."v/m"]
        api_name = "m"
        context_window = 10
        max_output_tokens = 5
        abilities = []
        price_provider = "google"
        """)
    return path


def test_the_catalog_names_the_folder(tmp_path: Path) -> None:
    catalog = load_catalog(_catalog(tmp_path, "gs://bucket-1/a/b"))

    assert catalog.accounts["v"].batch_folder == "gs://bucket-1/a/b"


@pytest.mark.parametrize("folder", ["s3://bucket/a", "/tmp/x", "gs://", "gs://UPPER/x"])
def test_a_folder_that_google_cannot_have_is_refused(tmp_path: Path, folder: str) -> None:
    with pytest.raises(ConfigError, match="batch_folder"):
        load_catalog(_catalog(tmp_path, folder))


@pytest.fixture(scope="module")
def private_key() -> str:
    key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    formats = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    return key.private_bytes(*formats, serialization.NoEncryption()).decode()


async def test_vertex_is_asked_with_the_service_accounts_token(
    tmp_path: Path, private_key: str
) -> None:
    async with batch_vendor() as vendor:
        vendor.say("POST /token", {"access_token": "t1", "expires_in": 3600}, content_type="x/y")
        path = tmp_path / "service_account.json"
        service = {
            "type": "service_account",
            "project_id": "p",
            "private_key_id": "1",
            "private_key": private_key,
            "client_email": "moa@p.iam.gserviceaccount.com",
            "client_id": "1",
            "token_uri": vendor.url + "/token",
        }
        path.write_bytes(orjson.dumps(service))
        account = Account("v", "gemini", vendor.url, project_env="P", batch_folder="gs://b/f")
        environ = {"P": "p", "GOOGLE_APPLICATION_CREDENTIALS": str(path)}
        vendor.say("GET /v1beta1/projects/p/locations/global/batchPredictionJobs", {})
        batches = open_batches(account, environ=environ)
        try:
            assert await batches.find("r", since=_NOW, requests=1) == []
            assert vendor.sent[-1].headers["authorization"] == "Bearer t1"

            service["private_key"] = "none"
            path.write_bytes(orjson.dumps(service))
            other = open_batches(account, environ=environ)
            with pytest.raises(KeyRefused):
                await other.look("1")
            await other.close()
        finally:
            await batches.close()
