"""What LiteLLM's client makes of an endpoint: prints what it got as JSON. Runs where LiteLLM is.

python litellm_exam.py http://127.0.0.1:8000/v1
"""

from __future__ import annotations

import json
import sys
from typing import Any

import litellm  # type: ignore[import-not-found, unused-ignore]
import openai

litellm.suppress_debug_info = True  # it prints advice beside errors

QUESTION = {"role": "user", "content": "How is the weather in Paris?"}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Paris"}'},
}
MISTAKES: dict[str, dict[str, Any]] = {
    "unknown model": {"model": "openai/moa:nobody"},
    "unsupported field": {"extra_body": {"logit_bias": {"5": 1}}},
    "bad value": {"temperature": 9},
}


def examine(base_url: str) -> dict[str, Any]:
    """Everything that was got, by what was asked for."""
    account = {"api_base": base_url, "api_key": "any", "num_retries": 0}

    def ask(**more: Any) -> Any:  # noqa: ANN401 - LiteLLM's own
        return litellm.completion(
            **{"model": "openai/moa", "messages": [QUESTION]} | account | more
        )

    whole = ask()
    chunks = list(ask(stream=True, stream_options={"include_usage": True}))
    turns = [
        QUESTION,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]
    demanded: dict[str, Any] = {"tools": [TOOL], "tool_choice": "required"}
    called = ask(**demanded).choices[0]
    built = litellm.stream_chunk_builder(list(ask(stream=True, **demanded)))
    response = litellm.responses(model="openai/moa", input="Hello", **account)
    events = litellm.responses(model="openai/moa", input="Hello", stream=True, **account)
    return {
        "text": whole.choices[0].message.content,
        "tokens": whole.usage.total_tokens,
        "streamed": "".join(c.choices[0].delta.content or "" for c in chunks if c.choices),
        "streamed_tokens": chunks[-1].usage.total_tokens,
        "answer_to_tool": ask(messages=turns, tools=[TOOL]).choices[0].message.content,
        "called": [call.function.name for call in called.message.tool_calls or ()],
        "finish": called.finish_reason,
        "streamed_call": [call.function.name for call in built.choices[0].message.tool_calls or ()],
        "response": response.output[0].content[0].text,
        "events": [str(getattr(event.type, "value", event.type)) for event in events],
        "mistakes": {name: _mistake(ask, fields) for name, fields in MISTAKES.items()},
    }


def _mistake(ask: Any, fields: dict[str, Any]) -> list[Any]:  # noqa: ANN401 - a function
    try:
        ask(**fields)
    except openai.APIStatusError as error:  # LiteLLM's are kinds of these
        return [type(error).__name__, error.status_code, str(error)]
    return []


if __name__ == "__main__":
    json.dump(examine(sys.argv[1]), sys.stdout)
