"""The endpoint's OpenAPI document, as far as FastAPI cannot know it: bodies are read by hand."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from moa.request import ChatRequest
from moa.serving import chat_wire, responses_wire
from moa.serving.feedback import Feedback

DESCRIPTION = (
    "OpenAI's API in front of a router: model 'moa' sends each request to the model that is worth "
    "its price, 'moa:NAME' by another trade-off, a catalog id straight to that model."
)
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
QUESTION = {"role": "user", "content": "What is 17 * 23?"}
_EXAMPLES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "moa", "messages": [QUESTION], "moa": True},
    "/v1/responses": {"model": "moa", "input": QUESTION["content"], "moa": True},
    "/v1/route": {"queries": [{"messages": [QUESTION]}]},
}
_MODEL = {
    "anyOf": [
        {"const": "moa", "description": "The model that is worth its price"},
        {
            "type": "string",
            "minLength": 1,
            "maxLength": 256,
            "description": "moa:NAME: by another trade-off; a catalog id: that model",
        },
    ]
}
_ONE_QUESTION = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "required": ["role", "content"],
        "properties": {"role": {"const": "user"}, "content": {"type": "string", "minLength": 1}},
        "additionalProperties": False,
    },
}
"""What most requests are; the schema of all conversations cannot say that a user must speak."""
_POST_ERRORS = ("400", "401", "403", "404", "408", "413", "429", "502", "503", "504")
_GET_ERRORS = ("401", "403", "404", "503")


def extra(method: str, path: str) -> dict[str, Any]:
    """What one route's entry has besides FastAPI's."""
    errors = _POST_ERRORS if method == "POST" else _GET_ERRORS
    ok: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
    if path in ("/v1/chat/completions", "/v1/responses"):
        ok["text/event-stream"] = {"schema": {"type": "string"}}
    entry: dict[str, Any] = {
        "responses": {
            "200": {"description": "The answer", "content": ok},
            **{
                status: {
                    "description": "An error object",
                    "content": {"application/json": {"schema": _ERROR}},
                }
                for status in errors
            },
        }
    }
    if path != "/healthz":
        entry["security"] = [{"bearer": []}]
    if (schema := _body(path)) is not None:
        content = {"schema": schema}
        if path in _EXAMPLES:
            content["examples"] = {"a question": {"value": _EXAMPLES[path]}}
        entry["requestBody"] = {"required": True, "content": {"application/json": content}}
    if path.endswith("{name:path}"):
        entry["parameters"] = [
            {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
        ]
    return entry


def _body(path: str) -> dict[str, Any] | None:
    match path:
        case "/v1/chat/completions":
            return _joined(chat_wire.About, only=chat_wire.SAME)
        case "/v1/responses":
            schema = inlined(responses_wire.About)
            schema["properties"] |= {
                "model": _MODEL,
                "input": {"type": ["string", "array"], "minLength": 1, "items": {"type": "object"}},
                "tools": {"type": "array", "items": {"type": "object"}},
                "tool_choice": {"type": ["string", "object"]},
                "text": {"type": "object"},
                "reasoning": {"type": "object"},
            }
            schema["required"] = [*schema["required"], "input"]
            return schema
        case "/v1/route":
            one = _conversation()
            listed = {"type": "array", "minItems": 1, "items": one}
            model = {"model": _MODEL}
            single = {**one, "properties": {**one["properties"], **model}}
            several = {
                "type": "object",
                "properties": {**model, "queries": listed},
                "required": ["queries"],
                "additionalProperties": False,
            }
            return {"anyOf": [single, several]}
        case "/v1/feedback":
            return inlined(Feedback)
    return None


def _joined(about: type[BaseModel], *, only: tuple[str, ...]) -> dict[str, Any]:
    schema, conversation = inlined(about), _conversation()
    schema["properties"]["model"] = _MODEL
    schema["properties"] |= {name: conversation["properties"][name] for name in only}
    schema["required"] = [*schema["required"], "messages"]
    return schema


def _conversation() -> dict[str, Any]:
    schema = inlined(ChatRequest)
    properties = schema["properties"]
    properties["messages"] = {"anyOf": [_ONE_QUESTION, properties["messages"]]}
    return schema


def inlined(model: type[BaseModel]) -> dict[str, Any]:
    """A model's JSON schema without references: it stands inside of another document."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def resolve(value: Any) -> Any:  # noqa: ANN401 - JSON
        if isinstance(value, dict):
            if "$ref" in value:
                return resolve(definitions[value["$ref"].rpartition("/")[2]])
            # A discriminator refers to definitions that are gone; anyOf says the same.
            return {k: resolve(v) for k, v in value.items() if k != "discriminator"}
        return [resolve(one) for one in value] if isinstance(value, list) else value

    found: dict[str, Any] = resolve(schema)
    return found
