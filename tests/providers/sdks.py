"""The vendors' own clients, and conversations in their words and in ours.

What differs on purpose, and is levelled before comparing: google-genai writes some names in
snake_case, base64 in its URL-safe letters, and an empty `generationConfig`; Google takes either.
"""

from __future__ import annotations

import re
from typing import Any

import anthropic
import openai
from google import genai

from moa.catalog import Wire
from moa.providers.accounts import open_provider
from moa.providers.provider import Completion, CompletionDelta, Request
from tests.providers.dialects import DIALECTS, KEY, a_chat
from tests.providers.vendor_server import VendorServer

PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = {"name": "weather", "description": "Of a city.", "parameters": SCHEMA}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city":"Paris"}'},
}
IMAGE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "How warm is it in Paris?"},
    {"role": "assistant", "content": "Let me look.", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": '{"celsius": 11}'},
    {"role": "user", "content": [{"type": "text", "text": "And here?"}, IMAGE]},
]

LINK = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
LINKED: list[dict[str, Any]] = [
    {"role": "user", "content": [{"type": "text", "text": "What is it?"}, LINK]}
]

OPENAI_CALLS: dict[str, dict[str, Any]] = {
    "plain": {"messages": [{"role": "user", "content": "Hello, \u00e9 \u4f60"}]},
    "sampling": {
        "messages": TALK[:2],
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 7,
        "stop": ["END"],
        "frequency_penalty": 0.1,
        "presence_penalty": -0.1,
        "logprobs": True,
        "top_logprobs": 3,
        "reasoning_effort": "low",
    },
    "tools": {
        "messages": TALK,
        "tools": [{"type": "function", "function": {**WEATHER, "strict": True}}],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "parallel_tool_calls": False,
    },
    "schema": {
        "messages": TALK[:2],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "place", "schema": SCHEMA, "strict": True},
        },
    },
    "json": {"messages": TALK[:2], "response_format": {"type": "json_object"}},
    "link": {"messages": LINKED},
}

ANTHROPIC_CALLS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "link": (
        {"messages": LINKED},
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What is it?"},
                        {
                            "type": "image",
                            "source": {"type": "url", "url": "https://example.com/a.png"},
                        },
                    ],
                }
            ],
            "max_tokens": 8_000,
        },
    ),
    "plain": (
        {"messages": [{"role": "user", "content": "Hello, \u00e9 \u4f60"}]},
        {"messages": [{"role": "user", "content": "Hello, \u00e9 \u4f60"}], "max_tokens": 8_000},
    ),
    "talk": (
        {
            "messages": TALK,
            "max_output_tokens": 100,
            "stop": ["END"],
            "tools": [{"type": "function", "function": WEATHER}],
            "tool_choice": "auto",
            "parallel_tool_calls": False,
            "reasoning_effort": "high",
        },
        {
            "system": "Be brief.",
            "max_tokens": 100,
            "stop_sequences": ["END"],
            "thinking": {"type": "adaptive"},
            "output_config": {"effort": "high"},
            "tools": [{"name": "weather", "description": "Of a city.", "input_schema": SCHEMA}],
            "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
            "messages": [
                {"role": "user", "content": "How warm is it in Paris?"},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "text", "text": "Let me look."},
                        {
                            "type": "tool_use",
                            "id": "call_1",
                            "name": "weather",
                            "input": {"city": "Paris"},
                        },
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "tool_result",
                            "tool_use_id": "call_1",
                            "content": '{"celsius": 11}',
                        },
                        {"type": "text", "text": "And here?"},
                        {
                            "type": "image",
                            "source": {"type": "base64", "media_type": "image/png", "data": PIXEL},
                        },
                    ],
                },
            ],
        },
    ),
    "schema": (
        {
            "messages": TALK[:2],
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "place", "schema": SCHEMA},
            },
        },
        {
            "system": "Be brief.",
            "messages": TALK[1:2],
            "max_tokens": 8_000,
            "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
        },
    ),
}

GEMINI_CALLS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": (
        {"messages": [{"role": "user", "content": "Hello, \u00e9 \u4f60"}]},
        {"contents": [{"role": "user", "parts": [{"text": "Hello, \u00e9 \u4f60"}]}]},
    ),
    "sampling": (
        {
            "messages": TALK[:2],
            "temperature": 1.5,
            "top_p": 0.9,
            "seed": 7,
            "stop": ["END"],
            "frequency_penalty": 0.1,
            "presence_penalty": -0.1,
            "logprobs": True,
            "top_logprobs": 3,
            "reasoning_effort": "low",
            "max_output_tokens": 50,
        },
        {
            "contents": [{"role": "user", "parts": [{"text": "How warm is it in Paris?"}]}],
            "config": {
                "system_instruction": "Be brief.",
                "temperature": 1.5,
                "top_p": 0.9,
                "seed": 7,
                "stop_sequences": ["END"],
                "frequency_penalty": 0.1,
                "presence_penalty": -0.1,
                "response_logprobs": True,
                "logprobs": 3,
                "thinking_config": {"thinking_level": "LOW"},
                "max_output_tokens": 50,
            },
        },
    ),
    "talk": (
        {
            "messages": TALK,
            "tools": [{"type": "function", "function": WEATHER}],
            "tool_choice": {"type": "function", "function": {"name": "weather"}},
        },
        {
            "contents": [
                {"role": "user", "parts": [{"text": "How warm is it in Paris?"}]},
                {
                    "role": "model",
                    "parts": [
                        {"text": "Let me look."},
                        {
                            "function_call": {
                                "id": "call_1",
                                "name": "weather",
                                "args": {"city": "Paris"},
                            },
                            "thought_signature": b"skip_thought_signature_validator",
                        },
                    ],
                },
                {
                    "role": "user",
                    "parts": [
                        {
                            "function_response": {
                                "id": "call_1",
                                "name": "weather",
                                "response": {"celsius": 11},
                            }
                        },
                        {"text": "And here?"},
                        {"inline_data": {"mime_type": "image/png", "data": PIXEL}},
                    ],
                },
            ],
            "config": {
                "system_instruction": "Be brief.",
                "tools": [
                    {
                        "function_declarations": [
                            {
                                "name": "weather",
                                "description": "Of a city.",
                                "parameters_json_schema": SCHEMA,
                            }
                        ]
                    }
                ],
                "tool_config": {
                    "function_calling_config": {
                        "mode": "ANY",
                        "allowed_function_names": ["weather"],
                    }
                },
            },
        },
    ),
    "schema": (
        {
            "messages": TALK[1:2],
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "place", "schema": SCHEMA},
            },
        },
        {
            "contents": [{"role": "user", "parts": [{"text": "How warm is it in Paris?"}]}],
            "config": {
                "response_mime_type": "application/json",
                "response_json_schema": SCHEMA,
            },
        },
    ),
}


def levelled(value: object, name: str = "") -> object:
    """A body of google-genai's in camelCase and plain base64, without what is empty."""
    if isinstance(value, dict):
        camel = {re.sub("_(.)", lambda m: m[1].upper(), k): v for k, v in value.items()}
        return {k: levelled(v, k) for k, v in camel.items() if (k, v) != ("generationConfig", {})}
    if isinstance(value, list):
        return [levelled(item) for item in value]
    if name in ("data", "thoughtSignature"):
        return str(value).replace("-", "+").replace("_", "/")
    return value


async def ours(
    server: VendorServer, wire: Wire, chat: dict[str, Any], lane: str = "live"
) -> Completion:
    dialect = DIALECTS[wire]
    base_url = server.base_url + dialect.suffix
    provider = open_provider(dialect.account, environ=dialect.environ, base_url=base_url)
    request = Request("q1", a_chat(**chat), dialect.model, lane)
    try:
        return (await provider.complete(request, timeout_s=10)).completion
    finally:
        await provider.close()


async def our_stream(
    server: VendorServer, wire: Wire, chat: dict[str, Any]
) -> tuple[list[str], Completion]:
    """The texts of a streamed answer, and the whole."""
    dialect = DIALECTS[wire]
    base_url = server.base_url + dialect.suffix
    provider = open_provider(dialect.account, environ=dialect.environ, base_url=base_url)
    request = Request("q1", a_chat(**chat), dialect.model)
    try:
        deltas: list[CompletionDelta] = [
            delta async for delta in provider.stream(request, timeout_s=10)
        ]
    finally:
        await provider.close()
    assert deltas[-1].completion is not None
    return [delta.text for delta in deltas if delta.text], deltas[-1].completion


def openai_client(server: VendorServer) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(api_key=KEY, base_url=server.base_url + "/v1", max_retries=0)


def anthropic_client(server: VendorServer) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(api_key=KEY, base_url=server.base_url, max_retries=0)


def gemini_client(server: VendorServer) -> genai.Client:
    return genai.Client(api_key=KEY, http_options={"base_url": server.base_url})
