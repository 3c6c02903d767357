"""OpenAI's responses, from the side of the server. Nothing is stored: clients send all turns."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from moa.errors import Refusal
from moa.request import MOST_OUTPUT_TOKENS
from moa.serving.chat_wire import (
    NO_CHOICE,
    NOT_DROPPED,
    Asked,
    invalid,
    read_conversation,
    read_object,
    refuse_unsupported,
    unsupported,
)
from moa.serving.config import HttpConfig

_NEED_A_STORE = {
    "previous_response_id": "responses are not stored: send the turns before as items of input",
    "conversation": "conversations are not stored: send all turns as items of input",
    "prompt": "prompts are not stored: send its text as instructions and input",
    "background": "responses are not stored: wait for this one, or stream it",
}
"""Field → what to do without it."""
_NO_CHOICE = {
    **NO_CHOICE,
    "max_tool_calls": (None,),
    "truncation": (None, "disabled"),
    "stream_options": (None, {}, {"include_obfuscation": False}, {"include_obfuscation": True}),
}
_LOGPROBS = "message.output_text.logprobs"
_INCLUDED = (_LOGPROBS, "reasoning.encrypted_content")
"""The latter is part of items that no response has here; some clients always ask for it."""
_BOOKKEEPING = ("type", "id", "status")
_OF_ITEM = {
    "message": ("role", "content"),
    "function_call": ("call_id", "name", "arguments"),
    "function_call_output": ("call_id", "output"),
}
"""Type of an item of input → its fields that are passed on."""


class About(BaseModel):
    """The body of `POST /v1/responses`, but for `input`, `tools` and `text`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str = Field(min_length=1, max_length=256)
    instructions: str | None = None
    stream: bool | None = None
    max_output_tokens: int | None = Field(default=None, ge=1, le=MOST_OUTPUT_TOKENS)
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    parallel_tool_calls: bool | None = None
    store: bool | None = Field(
        default=None, description="Ignored by agreement: nothing is ever stored"
    )
    moa: bool | None = None


def read_response(body: bytes, limits: HttpConfig) -> Asked:
    """A body as a request.

    Raises:
        Refusal: 400: it is none, or asks for what nobody here can do.
    """
    document = read_object(body)
    store, metadata = document.pop("store", None), document.get("metadata")
    for name, remedy in _NEED_A_STORE.items():
        if document.pop(name, None):
            raise unsupported(name, remedy)
    refuse_unsupported(document, _NO_CHOICE)
    said, tools, choice, text, reasoning, include = (
        document.pop(name, None)
        for name in ("input", "tools", "tool_choice", "text", "reasoning", "include")
    )
    try:
        about = About.model_validate({**document, "store": store})
    except ValidationError as error:
        raise invalid(error) from None
    given: dict[str, Any] = {
        "messages": _messages(said, about.instructions),
        "tools": [_tool(one) for one in _list(tools, "tools")] or None,
        "tool_choice": _tool_choice(choice),
        "response_format": _format(text),
        "reasoning_effort": _effort(reasoning),
    }
    for name in ("max_output_tokens", "temperature", "top_p", "parallel_tool_calls"):
        given[name] = getattr(about, name)
    if about.top_logprobs or _LOGPROBS in _included(include):
        given |= {"logprobs": True, "top_logprobs": about.top_logprobs}
    given = {name: value for name, value in given.items() if value is not None}
    return Asked(
        model=about.model,
        chat=read_conversation(given, limits),
        stream=bool(about.stream),
        include_usage=True,
        n=1,
        explain=bool(about.moa),
        echo=_echo(about, metadata, text),
    )


def _echo(about: About, metadata: object, text: object) -> dict[str, JsonValue]:
    """What a response repeats, that no vendor is told in this form.

    Raises:
        Refusal: 400: the metadata are no texts.
    """
    if metadata is None:
        metadata = {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise Refusal("metadata: should be an object of texts", param="metadata")
    found = (isinstance(text, dict) and text.get("format")) or {"type": "text"}
    return {
        "instructions": about.instructions,
        "metadata": metadata,
        "text": {"format": found},
        "top_logprobs": about.top_logprobs,
    }


def _included(include: object) -> list[Any]:
    for one in _list(include, "include"):
        if one not in _INCLUDED:
            raise unsupported("include", f"only {' and '.join(_INCLUDED)} are; leave others out")
    return _list(include, "include")


def _only(document: dict[str, Any], known: tuple[str, ...], param: str) -> None:
    """Refuse what would be dropped."""
    for name, value in document.items():
        if name not in known and value not in (None, [], {}):
            raise Refusal(f"{param}.{name[:40]} {NOT_DROPPED}", param=param)


def _list(value: object, name: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise Refusal(f"{name}: should be a list", param=name)
    return value


def _messages(said: object, instructions: str | None) -> list[Any]:
    """The items of `input` as turns; calls of one turn come as items of their own."""
    turns: list[Any] = []
    if instructions:
        turns.append({"role": "system", "content": instructions})
    if isinstance(said, str):
        return [*turns, {"role": "user", "content": said}]
    for number, item in enumerate(_list(said, "input")):
        if not isinstance(item, dict):
            raise Refusal("an item of input is no object", param=f"input.{number}")
        _add(turns, item, f"input.{number}")
    return turns


def _add(turns: list[Any], item: dict[str, Any], param: str) -> None:
    kind = item.get("type", "message")
    if kind == "reasoning":  # a vendor's own, which none takes back: see moa.request
        return
    if not isinstance(kind, str) or kind not in _OF_ITEM:
        raise Refusal(
            f"items of type {str(kind)[:40]!r} are not supported here",
            param=param,
            code="unsupported_parameter",
        )
    _only(item, (*_BOOKKEEPING, *_OF_ITEM[kind]), param)
    match kind:
        case "message":
            turns.append({"role": item.get("role"), "content": _content(item, param)})
        case "function_call":
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            call = {"id": item.get("call_id"), "type": "function", "function": function}
            if turns and turns[-1]["role"] == "assistant":
                turns[-1].setdefault("tool_calls", []).append(call)
            else:
                turns.append({"role": "assistant", "content": None, "tool_calls": [call]})
        case "function_call_output":
            content = _content({"content": item.get("output")}, param)
            turns.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": content})


def _content(item: dict[str, Any], param: str) -> Any:  # noqa: ANN401 - checked by ChatRequest
    content, param = item.get("content"), f"{param}.content"
    if isinstance(content, str):
        return content
    parts = [_part(part, param) for part in _list(content, param)]
    if item.get("role") != "assistant":
        return parts
    if any(part["type"] != "text" for part in parts):
        raise Refusal("an assistant's message has text only", param=param)
    return "\n".join(str(part["text"]) for part in parts)


def _part(part: object, param: str) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(part, dict):
        if kind in ("input_text", "output_text", "text"):
            _only(part, ("type", "text", "annotations", "logprobs"), param)
            return {"type": "text", "text": part.get("text")}
        if kind == "refusal":
            _only(part, ("type", "refusal"), param)
            return {"type": "text", "text": part.get("refusal")}
        if kind == "input_image" and part.get("image_url") is not None:
            _only(part, ("type", "image_url", "detail"), param)
            image = {"url": part["image_url"]}
            if part.get("detail") is not None:
                image["detail"] = part["detail"]
            return {"type": "image_url", "image_url": image}
    raise Refusal(
        f"content of type {str(kind)[:40]!r} is not supported here",
        param=param,
        code="unsupported_parameter",
    )


def _tool(tool: object) -> dict[str, Any]:
    if not isinstance(tool, dict) or tool.get("type") != "function":
        kind = tool.get("type") if isinstance(tool, dict) else tool
        raise unsupported("tools", f"only functions are, not {str(kind)[:40]!r}")
    function = {k: v for k, v in tool.items() if k != "type" and v is not None}
    return {"type": "function", "function": function}


def _tool_choice(choice: object) -> object:
    if isinstance(choice, dict) and choice.get("type") == "function":
        _only(choice, ("type", "name"), "tool_choice")
        return {"type": "function", "function": {"name": choice.get("name")}}
    return choice


def _format(text: object) -> object:
    if text is None:
        return None
    if not isinstance(text, dict):
        raise Refusal("text: should be an object", param="text")
    _only(text, ("format", "verbosity"), "text")
    if text.get("verbosity") not in NO_CHOICE["verbosity"]:
        raise unsupported("text.verbosity", "leave it out")
    kind = text.get("format")
    if not isinstance(kind, dict) or kind.get("type") != "json_schema":
        return kind
    schema = {k: v for k, v in kind.items() if k != "type" and v is not None}
    return {"type": "json_schema", "json_schema": schema}


def _effort(reasoning: object) -> object:
    if reasoning is None:
        return None
    if not isinstance(reasoning, dict):
        raise Refusal("reasoning: should be an object", param="reasoning")
    if any(v is not None for k, v in reasoning.items() if k != "effort"):
        raise unsupported("reasoning", "only its effort is")
    return reasoning.get("effort")
