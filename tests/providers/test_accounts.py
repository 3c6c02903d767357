from __future__ import annotations

from pathlib import Path

import pytest

from moa.catalog import Account
from moa.errors import ConfigError
from moa.providers.accounts import ABILITIES, check_credentials, open_provider
from moa.request import ChatRequest


@pytest.mark.parametrize(
    ("account", "variable"),
    [
        (Account("openai", "openai"), "OPENAI_API_KEY"),
        (Account("router", "openai", "https://x.example/v1", "ROUTER_KEY"), "ROUTER_KEY"),
        (Account("anthropic", "anthropic"), "ANTHROPIC_API_KEY"),
        (Account("anthropic", "anthropic", api_key_env="CLAUDE_KEY"), "CLAUDE_KEY"),
        (Account("gemini", "gemini", api_key_env="GEMINI_API_KEY"), "GEMINI_API_KEY"),
        (Account("vertex", "gemini"), "GOOGLE_CLOUD_PROJECT"),
        (Account("vertex", "gemini", project_env="MY_PROJECT"), "MY_PROJECT"),
    ],
)
def test_what_is_missing_is_named(account: Account, variable: str) -> None:
    with pytest.raises(ConfigError, match=f"set {variable}, "):
        check_credentials(account, {"UNRELATED": "x"})

    with pytest.raises(ConfigError, match=f"set {variable}, "):
        open_provider(account, environ={variable: "  "})

    check_credentials(account, {variable: "something"})


@pytest.mark.parametrize(
    "account",
    [
        Account("openai", "openai", api_key_env="KEY"),
        Account("anthropic", "anthropic", api_key_env="KEY"),
        Account("gemini", "gemini", api_key_env="KEY"),
    ],
)
@pytest.mark.parametrize("key", ["sk-one\nsk-two", "sk-\x00", "sk-\u201csecret\u201d"])
def test_a_key_that_no_header_can_carry_is_named_by_its_variable(
    account: Account, key: str
) -> None:
    with pytest.raises(ConfigError, match="KEY holds") as caught:
        check_credentials(account, {"KEY": key})

    assert "sk-" not in str(caught.value)


@pytest.mark.parametrize(
    "account",
    [
        Account("openai", "openai", api_key_env="KEY"),
        Account("anthropic", "anthropic", api_key_env="KEY"),
        Account("gemini", "gemini", api_key_env="KEY"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_found_before_the_first_call(account: Account) -> None:
    with pytest.raises(ConfigError, match="HTTPS_PROXY="):
        check_credentials(account, {"KEY": "k", "HTTPS_PROXY": "socks5://127.0.0.1:1080"})


def test_a_server_of_ones_own_needs_no_key() -> None:
    account = Account("ours", "openai", base_url="http://gpu-1:8000/v1")

    check_credentials(account, {})


def test_an_older_token_of_anthropics_will_do() -> None:
    check_credentials(Account("anthropic", "anthropic"), {"ANTHROPIC_AUTH_TOKEN": "t"})


def test_a_service_account_that_is_no_file_is_named(tmp_path: Path) -> None:
    environ = {
        "GOOGLE_CLOUD_PROJECT": "p1",
        "GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "missing.json"),
    }

    with pytest.raises(ConfigError, match=r"missing\.json"):
        check_credentials(Account("vertex", "gemini"), environ)


@pytest.mark.parametrize("url", ["api.example.com/v1", "ftp://example.com", "http://", "http://["])
def test_a_base_url_that_is_none_is_named(url: str) -> None:
    account = Account("ours", "openai", base_url=url)

    with pytest.raises(ConfigError, match="base URL"):
        check_credentials(account, {})


def test_no_wire_claims_an_ability_that_no_request_can_ask_for() -> None:
    everything = ChatRequest.model_validate(
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "Hi"},
                        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
                    ],
                }
            ],
            "temperature": 2,
            "top_p": 0.5,
            "stop": ["x"],
            "seed": 1,
            "logprobs": True,
            "presence_penalty": 1,
            "reasoning_effort": "low",
            "tools": [{"function": {"name": "f"}}],
            "response_format": {"type": "json_object"},
        }
    )
    known = {*everything.abilities(), "temperature", "json_schema"}

    assert ABILITIES["openai"] == known
    assert ABILITIES["gemini"] == known - {"image_urls"}
    assert ABILITIES["anthropic"] < known
