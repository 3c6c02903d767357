"""What is other about a run than it was at its first start, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from moa.config import NOT_HASHED


def change(name: str, kept: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """What is other than it was: the keys of the config that count, else the versions."""
    before, now = (dict(_flat("", document.get(name, {}))) for document in (kept, ours))
    differ = sorted(key for key in before | now if before.get(key) != now.get(key))
    keys = [key for key in differ if not _may_change(key)]
    if name != "config" or not keys:
        before, now, keys = kept["identity"], ours["identity"], [name]
    return ", ".join(
        f"{key} was {_short(before.get(key))}, is {_short(now.get(key))}" for key in keys
    )


def _may_change(key: str) -> bool:
    section, *inner = key.split(".")
    free = NOT_HASHED.get(section, ())
    return free is True or bool(inner and inner[0] in free)


def _flat(prefix: str, value: object) -> Iterator[tuple[str, object]]:
    """Dotted keys and their values."""
    if not isinstance(value, Mapping):
        yield prefix, value
        return
    for key, inner in value.items():
        yield from _flat(f"{prefix}.{key}" if prefix else str(key), inner)


def _short(value: object) -> str:
    text = "not given" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
