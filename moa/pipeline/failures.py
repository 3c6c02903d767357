"""What went wrong on the cluster, in the words of whoever found it: Ray wraps it in its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
from ray.exceptions import RayError, RayTaskError

from moa.errors import MoaError, RunError

RAYS_ADVICE = "\nFailed to apply UDF"
"""How that begins what Ray Data appends to the message of whatever a stage raised."""

LAST_WORDS = (
    "What the process itself said last is in Ray's logs on its machine, by default in "
    "/tmp/ray/session_latest/logs. "
)


@contextmanager
def told_plainly() -> Iterator[None]:
    """Raise what a task or an actor has raised, and what a disk or a bucket did as `RunError`.

    Anything else is a bug, and passes as it is.
    """
    try:
        yield
    except Exception as error:
        cause = cause_of(error)
        if isinstance(cause, MoaError):
            cause.args = (str(cause).partition(RAYS_ADVICE)[0],)
            raise cause from None
        if _of_a_store(cause) or isinstance(cause, RayError):
            lines = [line for line in str(cause).splitlines() if line.strip()] or [""]
            # An actor that died begins with the general and ends with what killed it.
            line = lines[-1] if isinstance(cause, RayError) else lines[0]
            where = LAST_WORDS if isinstance(cause, RayError) else ""
            raise RunError(
                f"{type(cause).__name__}: {line.strip()}. {where}What was answered is kept: when "
                "that is mended, the same command goes on"
            ) from error
        raise


def cause_of(error: BaseException) -> BaseException:
    """What was raised first, behind what Ray has put around it."""
    while isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
        error = error.cause
    return error


def _of_a_store(error: BaseException) -> bool:
    """Whether a disk or a bucket raised it. The clients' classes take a second to import, which
    whoever raised them has done: so by the name of their package.
    """
    package = type(error).__module__.partition(".")[0]
    return isinstance(error, (OSError, pa.ArrowException)) or package in ("botocore", "google")
