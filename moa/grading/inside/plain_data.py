"""Values as JSON that keeps what Python tells apart: tuples, sets, bytes, keys that are no text.

`None`, booleans, numbers and text stay; the rest is a list whose first element says what it is. An
object of another kind has no form: nothing a program defines leaves its process, only data does.
"""

from __future__ import annotations

from itertools import islice

TYPE_CHECKING = False  # as in `typing`, whose import would take longer than a call
if TYPE_CHECKING:
    from typing import Any

COLLECTIONS: tuple[Any, ...] = (list, tuple, set, frozenset)
MOST_ELEMENTS = 100_000
"""Of something that is read by iterating, as it may have no end."""


def encode(value: object) -> object:
    """The form of a value.

    Raises:
        TypeError: it has none.
    """
    if value is None or isinstance(value, bool):
        return value
    for plain in (int, float, str):
        if isinstance(value, plain):
            return plain(value)
    if isinstance(value, (bytes, bytearray)):
        return ["bytes", bytes(value).hex()]
    if isinstance(value, complex):
        return ["complex", value.real, value.imag]
    if isinstance(value, dict):
        return ["dict", *([encode(key), encode(each)] for key, each in value.items())]
    if isinstance(value, (list, tuple, set, frozenset)):
        kind = next(each for each in COLLECTIONS if isinstance(value, each))
        return [kind.__name__, *map(encode, value)]
    if hasattr(value, "tolist"):  # NumPy's
        return encode(value.tolist())
    if hasattr(value, "__iter__"):
        return ["list", *map(encode, islice(value, MOST_ELEMENTS))]
    raise TypeError(f"{type(value).__name__} is no plain data")


def decode(form: Any) -> Any:  # noqa: ANN401  what JSON holds
    """The value of a form.

    Raises:
        ValueError: it is not what `encode` gives.
    """
    if not isinstance(form, list):
        return form
    kind, *rest = form
    if kind == "bytes":
        return bytes.fromhex(rest[0])
    if kind == "complex":
        return complex(*rest)
    if kind == "dict":
        return {decode(key): decode(each) for key, each in rest}
    for known in COLLECTIONS:
        if kind == known.__name__:
            return known(map(decode, rest))
    raise ValueError(f"no kind of value: {kind!r}")
