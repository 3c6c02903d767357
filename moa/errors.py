"""Every error of the project, on one page. The class says what to do; nobody reads messages.

MoaError
├── ConfigError            refuse to start: the message names the value, the limit, the remedy
├── SchemaError            a stage received a table it did not agree to
├── ArtifactError          a router on disk is damaged, or made for something else
├── EngineError            the engine of a language model died: end its process, start another
├── NotPromoted            a router may not go live: the message says why, and what would help
├── RunError               the run folder says no: in use, or made by another configuration
├── Interrupted            the run was asked to stop; started again, it goes on
├── Refusal                the endpoint answers with an error: status, code, what to do
└── ProviderError          one call failed
    ├── InvalidRequest     would fail again with this model: do not retry, try the next model
    │   └── ContextExceeded    the model's window is too small
    ├── AccountRefused     billing, spend cap, on hold: nothing more goes to this account
    │   └── KeyRefused         key, permission, address: as the first answer it stops the run
    └── TransientError     may succeed: wait `retry_after_s` or back off, then retry
        └── RateLimited    the vendor asks for a pause
            ├── LaneUnavailable    no capacity in this lane now: use the live one
            └── QuotaSpent         a daily or monthly quota: not before `retry_after_s`, if ever
"""

from __future__ import annotations


class MoaError(Exception):
    """The root of every error that this project raises on purpose."""


class ConfigError(MoaError):
    """The job cannot start as configured."""


class SchemaError(MoaError):
    """A table does not have the schema that was agreed in `moa.schema`."""


class ArtifactError(MoaError):
    """A router artifact is damaged, or does not fit what it is asked to do."""


class EngineError(MoaError):
    """The engine that hosts a language model failed, by no fault of a query; it cannot go on."""


class NotPromoted(MoaError):
    """A router may not go live: the gate's verdict does not permit it, or another was quicker."""


class RunError(MoaError):
    """A run folder cannot be used: another process holds it, or another configuration made it."""


class Interrupted(MoaError):
    """The run was asked to stop, and the next start goes on; the message says what was out."""


class Refusal(MoaError):
    """The endpoint's answer to a request that gets no completion, in the words of OpenAI's API.

    Args:
        message: for people: the value, the limit and the remedy; without prompt or key.
        status: HTTP.
        kind: `invalid_request_error`, `authentication_error`, `permission_error`,
            `rate_limit_error`, `api_error`.
        code: machine-readable.
        param: which part of the request is wrong.
        retry_after_s: when it may be asked again; `None` where waiting does not help.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.kind = kind
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s


class ProviderError(MoaError):
    """One call to a provider failed.

    Args:
        detail: what the vendor said, without prompt, completion or key.
        status: HTTP status; `None` when no answer came.
        code: the vendor's own machine-readable code, `""` when it gave none.
        maybe_billed: the vendor may have done the work (the answer was cut or reports no usage,
            the connection broke after sending): another call can pay twice.
    """

    def __init__(
        self, detail: str, *, status: int | None = None, code: str = "", maybe_billed: bool = False
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status
        self.code = code
        self.maybe_billed = maybe_billed


class InvalidRequest(ProviderError):
    """The same request to the same model would fail again."""


class ContextExceeded(InvalidRequest):
    """Prompt and wanted output do not fit the model's window."""


class AccountRefused(ProviderError):
    """The account's money or standing (billing, a spend cap, on hold): stop calling it."""


class KeyRefused(AccountRefused):
    """The key, its permissions or the address were refused. As an account's first answer it means
    that the account was never set up rightly, so the run stops.
    """


class TransientError(ProviderError):
    """A later try may succeed: overload, 5xx, a reset, a time-out, a cut or empty body.

    `retry_after_s` is `None` when the vendor did not say how long to wait.
    """

    def __init__(
        self,
        detail: str,
        *,
        status: int | None = None,
        code: str = "",
        maybe_billed: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(detail, status=status, code=code, maybe_billed=maybe_billed)
        self.retry_after_s = retry_after_s


class RateLimited(TransientError):
    """The vendor asks for a pause. Nothing was done, so nothing is billed."""

    def __init__(
        self,
        detail: str,
        *,
        retry_after_s: float | None = None,
        status: int | None = 429,
        code: str = "",
    ) -> None:
        super().__init__(detail, status=status, code=code, retry_after_s=retry_after_s)


class LaneUnavailable(RateLimited):
    """This lane has no capacity now: use the live one. Nothing was done, so nothing is billed."""


class QuotaSpent(RateLimited):
    """A quota longer than a minute is used up, such as one of requests per day.

    `retry_after_s` is minutes or more, or `None`: vendors answer with the seconds in which a single
    call trickles in, or with those of another limit.
    """
