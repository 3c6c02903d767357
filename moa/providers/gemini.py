"""Gemini's generateContent, on Vertex (service account or key) and on the Developer API (key).

What is not known, because no code says it: that a prompt is too long for the window comes as a
plain 400 `INVALID_ARGUMENT`, which is `InvalidRequest` here; that a project has reached its monthly
spending cap, as a plain 429 without details, which is `RateLimited`. (Spent credit is a 402.) No
headers say what is left.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import orjson
from pydantic import ValidationError
from yarl import URL

from moa.catalog import Account
from moa.errors import (
    ConfigError,
)
from moa.providers import faults, http, turns
from moa.providers.faults import Fault
from moa.providers.gemini_faults import fault_of
from moa.providers.gemini_request import request_document
from moa.providers.gemini_stream import GeminiAssembly, openai_logprobs
from moa.providers.google_token import GoogleToken
from moa.providers.provider import Completion, Request, Usage, VendorLimits
from moa.providers.wire import Call, WireProvider

if TYPE_CHECKING:
    from google.genai.types import Candidate, GenerateContentResponse, Part

_FINISH = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "LANGUAGE": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "IMAGE_RECITATION": "content_filter",
}
"""Any other reason (a malformed call, `OTHER`) is a failure that another try may not meet."""

_MULTI_REGIONS = ("us", "eu")
_NO_LIMITS = VendorLimits()
_STAND_IN_PROJECT = "replay"


def check(account: Account, environ: Mapping[str, str]) -> None:
    """See `moa.providers.accounts.check_credentials`."""
    _key(account, environ)
    http.proxy_for(models_root(account, environ, None), environ)
    path = environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    if on_vertex(account) and not account.api_key_env and path and not Path(path).is_file():
        raise ConfigError(
            f"account {account.name!r}: GOOGLE_APPLICATION_CREDENTIALS names {path!r}, "
            "which is no file"
        )


def open_gemini(
    account: Account, *, environ: Mapping[str, str], base_url: str | None
) -> WireProvider:
    """A provider for an account of wire `gemini`.

    A `base_url` given here stands in for the vendor: no Google token is fetched for it.
    """
    root = models_root(account, environ, base_url)
    key = _key(account, environ)
    token = None
    if on_vertex(account) and not key and base_url is None:
        token = GoogleToken(environ.get("GOOGLE_APPLICATION_CREDENTIALS"))
    headers = {"x-goog-api-key": key} if key else {}
    transport = http.Transport(headers, proxy=http.proxy_for(root, environ))
    wire = GeminiWire(account.name, root, key, token, vertex=on_vertex(account))
    return WireProvider(account.name, wire, transport)


def on_vertex(account: Account) -> bool:
    """Whether an account's models are Vertex's, not the Developer API's."""
    return not account.api_key_env or bool(account.project_env or account.location)


def _key(account: Account, environ: Mapping[str, str]) -> str:
    name = account.api_key_env
    if name is None:
        return ""
    key = http.credential(environ, name, where=f"account {account.name!r}")
    if not key:
        raise ConfigError(f"account {account.name!r}: set {name}, its API key, in the environment")
    return key


def models_root(account: Account, environ: Mapping[str, str], override: str | None) -> URL:
    """Where the models are: everything of the URL before `publishers/` or `models/`. On Vertex with
    a key and no project (express mode) it names no project.

    Raises:
        ConfigError: the project is not set, or a base URL is none.
    """
    where = f"account {account.name!r}"
    text = override or account.base_url
    if not on_vertex(account):
        text = text or environ.get("GOOGLE_GEMINI_BASE_URL")
        return http.base_url(text or "https://generativelanguage.googleapis.com", where=where) / (
            "v1beta"
        )
    location = account.location or environ.get("GOOGLE_CLOUD_LOCATION") or "global"
    text = text or environ.get("GOOGLE_VERTEX_BASE_URL") or _vertex_url(location)
    variable = account.project_env or "GOOGLE_CLOUD_PROJECT"
    project = environ.get(variable, "").strip()
    base = http.base_url(text, where=where) / "v1beta1"
    if not project and account.api_key_env and not account.project_env:
        return base  # express mode: the key knows its project
    if not project and override is None:
        raise ConfigError(f"{where}: set {variable}, its Google Cloud project, in the environment")
    return base / "projects" / (project or _STAND_IN_PROJECT) / "locations" / location


def _vertex_url(location: str) -> str:
    if location == "global":
        return "https://aiplatform.googleapis.com"
    if location in _MULTI_REGIONS:
        return f"https://aiplatform.{location}.rep.googleapis.com"
    return f"https://{location}-aiplatform.googleapis.com"


def vertex_path(api_name: str) -> str:
    """What comes after project and location, as google.genai has it: `google/gemini-3-flash` names
    a publisher and its model, a path stays as it is.
    """
    if api_name.startswith(("projects/", "models/", "publishers/")):
        return api_name
    publisher, slash, model = api_name.partition("/")
    if not slash:
        publisher, model = "google", api_name
    return f"publishers/{publisher}/models/{model}"


def developer_path(api_name: str) -> str:
    """What comes after the version on the Developer API."""
    named = api_name.startswith(("models/", "tunedModels/"))
    return api_name if named else f"models/{api_name}"


class GeminiWire:
    """The format; see `moa.providers.wire.Wire`."""

    def __init__(
        self,
        name: str,
        root: URL,
        key: str,
        token: GoogleToken | None,
        *,
        vertex: bool,
        clock: Callable[[], float] = time.time,
    ) -> None:
        from google.genai.types import GenerateContentResponse  # seconds to import

        self.key = key
        self._name = name
        self._root = root
        self._vertex = vertex
        self.token = token
        self._clock = clock
        self._type = GenerateContentResponse
        self._urls: dict[tuple[str, bool], URL] = {}

    def call(self, request: Request, *, stream: bool) -> Call:
        """See `Wire.call`."""
        document = request_document(request, self._name)
        return Call(self._url(request.model.api_name, stream), document)

    def _url(self, api_name: str, stream: bool) -> URL:
        url = self._urls.get((api_name, stream))
        if url is None:
            method = "streamGenerateContent" if stream else "generateContent"
            path = vertex_path(api_name) if self._vertex else developer_path(api_name)
            root = self._root
            if path.startswith("projects/"):  # a tuned model or an endpoint, wherever it is
                root = root.with_path(root.path.rpartition("/projects/")[0] or root.path)
            url = root / f"{path}:{method}"
            url = url.with_query(alt="sse") if stream else url
            self._urls[api_name, stream] = url
        return url

    def read(self, body: bytes) -> Completion | Fault:
        """See `Wire.read`."""
        try:
            answer = self._type.model_validate_json(body)
        except ValidationError as error:
            answer = self._read_loosely(body, error)
        return self._completion(answer)

    def _read_loosely(self, body: bytes, error: ValidationError) -> GenerateContentResponse:
        """Fields that this version of the SDK does not know are left out, as the SDK does."""
        try:
            document = orjson.loads(body)
            for flaw in error.errors(include_url=False, include_context=False, include_input=False):
                if flaw["type"] != "extra_forbidden":
                    raise faults.malformed(self._name, "the answer is not as the SDK describes it")
                _remove(document, flaw["loc"])
            return self._type.model_validate(document)
        except (orjson.JSONDecodeError, ValidationError, KeyError, IndexError, TypeError):
            raise faults.malformed(self._name, "the answer cannot be read") from None

    def _completion(self, answer: GenerateContentResponse) -> Completion:
        if not answer.candidates:
            if answer.prompt_feedback is None or answer.prompt_feedback.block_reason is None:
                raise faults.malformed(self._name, "the answer has no candidates")
            return self._assembled(answer, "content_filter", [], None)
        candidate = answer.candidates[0]
        reason = candidate.finish_reason.value if candidate.finish_reason else ""
        finish = _FINISH.get(reason)
        if finish is None:
            raise faults.malformed(self._name, f"the model stopped for the reason {reason[:40]!r}")
        parts = (candidate.content.parts if candidate.content else None) or []
        return self._assembled(answer, finish, parts, candidate)

    def _assembled(
        self,
        answer: GenerateContentResponse,
        finish: str,
        parts: list[Part],
        candidate: Candidate | None,
    ) -> Completion:
        text = "".join(part.text for part in parts if part.text and not part.thought)
        calls = _tool_calls(parts, answer.response_id or f"call-{uuid4().hex}")
        if finish == "stop" and not (text or calls):
            raise faults.empty(self._name, finish)
        logprobs = candidate.logprobs_result if candidate else None
        traffic = answer.usage_metadata.traffic_type if answer.usage_metadata else None
        return Completion(
            text=text,
            finish_reason="tool_calls" if calls and finish == "stop" else finish,
            usage=self._usage(answer, blocked=candidate is None),
            response_id=answer.response_id or "",
            served_model=answer.model_version or "",
            tool_calls=orjson.dumps(calls).decode() if calls else None,
            refused=finish == "content_filter",
            logprobs=openai_logprobs(logprobs.model_dump(by_alias=True)) if logprobs else None,
            service_tier=traffic.value.lower() if traffic else None,
        )

    def _usage(self, answer: GenerateContentResponse, *, blocked: bool) -> Usage:
        usage = answer.usage_metadata
        if usage is None or usage.prompt_token_count is None:
            if blocked:
                return Usage(0, 0)
            raise faults.unbilled(self._name)
        thoughts = usage.thoughts_token_count or 0
        return Usage(
            input_tokens=usage.prompt_token_count + (usage.tool_use_prompt_token_count or 0),
            output_tokens=(usage.candidates_token_count or 0) + thoughts,
            cached_input_tokens=usage.cached_content_token_count or 0,
            reasoning_tokens=thoughts,
        )

    def reject(self, reply: http.Reply) -> Completion | Fault:
        """See `Wire.reject`."""
        return fault_of(
            reply.status, reply.body, faults.retry_after_s(reply.headers, self._clock())
        )

    def limits(self, headers: Mapping[str, str]) -> VendorLimits:
        """See `Wire.limits`; Gemini says nothing."""
        return _NO_LIMITS

    def assembly(self) -> GeminiAssembly:
        """See `Wire.assembly`."""
        return GeminiAssembly()


def _tool_calls(parts: list[Part], response_id: str) -> list[dict[str, Any]]:
    """The calls in OpenAI's form; one without an id gets one that no other of its conversation
    has.
    """
    calls = [part.function_call for part in parts if part.function_call is not None]
    return [
        turns.openai_tool_call(
            call.id or f"{response_id}-{number}",
            call.name or "",
            orjson.dumps(call.args or {}).decode(),
        )
        for number, call in enumerate(calls)
    ]


def _remove(document: dict[str, Any], path: tuple[int | str, ...]) -> None:
    at: Any = document
    for step in path[:-1]:
        at = at[step]
    del at[path[-1]]
