"""A TOML file as a pydantic model, or everything that is wrong with it, one line each."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from datetime import date, datetime, time
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from moa.errors import ConfigError


class Section(BaseModel):
    """A table of a TOML file; unknown keys are refused, and so is text in place of a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


def day(value: object) -> object:
    """For a field that is a `date`: as TOML has it, or as text; no moment, no number.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, str):
        with suppress(ValueError):
            found = date.fromisoformat(value)
            if found.isoformat() == value:  # and not one of ISO 8601's other forms
                return found
    elif value is None or (isinstance(value, date) and not isinstance(value, datetime)):
        return value
    raise ValueError("should be a day, as YYYY-MM-DD")


def local(folder: str) -> str:
    """For a field that is written to on this machine's disk.

    Raises:
        ValueError: it is the address of a bucket.
    """
    if "://" in folder:
        raise ValueError("should be a local folder; copy it to a bucket from there")
    return folder


def each_once(names: list[str]) -> list[str]:
    """For a field that lists models.

    Raises:
        ValueError: one of them is there again.
    """
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)} named more than once: name each model once")
    return names


M = TypeVar("M", bound=BaseModel)


def read_toml(kind: type[M], path: str | Path, overrides: Sequence[str] = ()) -> M:
    """Read a file and check it against `kind`.

    Args:
        kind: the model of the whole file.
        path: a local file.
        overrides: `section.key=value`, later ones win. The value is TOML, or else plain text.

    Raises:
        ConfigError: no such file, no TOML, or any number of unknown, missing and bad keys: each
            on a line of its own, with the nearest known key or the allowed range.
    """
    return override(kind, _parse(Path(path)), overrides, where=str(path))


def override(kind: type[M], document: dict[str, Any], overrides: Sequence[str], *, where: str) -> M:
    """Check a document that has been read already, with some of its values set anew.

    Args:
        kind: the model of all of it.
        document: as TOML or JSON gives it; the overrides are put into it.
        overrides: as `read_toml`.
        where: it is from, for the message.

    Raises:
        ConfigError: as `read_toml`.
    """
    given = [_Override.parse(text, kind) for text in overrides]
    for one in given:
        one.put_into(document)
    return check(kind, document, where=where, told={one.keys for one in given})


def check(
    kind: type[M],
    document: Mapping[str, object],
    *,
    where: str,
    told: Set[tuple[str, ...]] = frozenset(),
) -> M:
    """Check a document that has been read already.

    Args:
        kind: the model of all of it.
        document: as TOML or JSON gives it.
        where: it is from, for the message.
        told: keys that `--set` gave.

    Raises:
        ConfigError: as `read_toml`.
    """
    problems = [
        f"{'.'.join(keys)}: holds a NUL or bytes that are no UTF-8: leave them out"
        for keys, text in _texts(document)
        if "\0" in text or _SURROGATE.search(text)
    ]
    if not problems:
        try:
            return kind.model_validate(document)
        except ValidationError as error:
            problems = _merged(_problem(kind, details, told) for details in error.errors())
    one = len(problems) == 1
    heading = f"{where}: {len(problems)} problem{'' if one else 's'}"
    raise ConfigError("\n  ".join([heading, *problems]))


_SURROGATE = re.compile("[\ud800-\udfff]")
"""What Python makes of bytes on a command line that are no UTF-8."""


def _texts(document: object) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every text of a document, however deep, with the keys that lead to it."""
    waiting: list[tuple[tuple[str, ...], object]] = [((), document)]
    while waiting:
        keys, value = waiting.pop()
        if isinstance(value, str):
            yield keys, value
        elif isinstance(value, Mapping):
            waiting += [((*keys[-9:], str(key)), inner) for key, inner in value.items()]
        elif isinstance(value, list):
            waiting += [(keys, inner) for inner in value]


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file (relative paths start at {Path.cwd()})") from error
    except RecursionError:
        raise ConfigError(f"{path}: not valid TOML: nested too deeply") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    except (OSError, ValueError) as error:  # no UTF-8, or a NUL in the path
        raise ConfigError(f"{str(path)!r}: cannot be read: {error}") from error


class _Override(NamedTuple):
    keys: tuple[str, ...]
    value: object

    @classmethod
    def parse(cls, text: str, kind: type[BaseModel]) -> _Override:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"--set {text!r}: write it as section.key=value")
        keys = tuple(key.strip() for key in name.split("."))
        return cls(keys, _value(value.strip(), _annotation(kind, keys)))

    def put_into(self, document: dict[str, Any]) -> None:
        table = document
        for key in self.keys[:-1]:
            inner = table.setdefault(key, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"--set {'.'.join(self.keys)}: {key} is a value, not a section")
            table = inner
        table[self.keys[-1]] = self.value


def _value(text: str, annotation: object) -> object:
    """`run.id=2026-11-24` is text where text is wanted, though TOML reads it as a date."""
    try:
        document = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    value = document.pop("value")
    plain = isinstance(value, (bool, int, float, datetime, date, time))
    wants_text = annotation is str or str in get_args(annotation)
    return text if document or (plain and wants_text) else value


def _annotation(kind: type[BaseModel], keys: Sequence[str]) -> object:
    """The type of the field at `keys`, `None` where there is no such field."""
    model = _model_at(kind, keys[:-1])
    field = model.model_fields.get(keys[-1]) if model else None
    return field.annotation if field else None


def _model_at(kind: object, keys: Sequence[str]) -> type[BaseModel] | None:
    """The model of the table at `keys`; through optional tables and tables of tables."""
    for key in keys:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            field = kind.model_fields.get(key)
            kind = field.annotation if field else None
        elif get_origin(kind) is dict:
            kind = get_args(kind)[1]
        elif get_origin(kind) in (list, tuple):
            kind = get_args(kind)[0]
        kind = next(iter(_models(kind)), kind)
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _models(kind: object) -> Iterator[type[BaseModel]]:
    for one in get_args(kind) if get_origin(kind) not in (dict, list, tuple) else ():
        if isinstance(one, type) and issubclass(one, BaseModel):
            yield one


class _Problem(NamedTuple):
    key: str
    complaint: str
    meaning: str = ""


def _merged(problems: Iterable[_Problem]) -> list[str]:
    """A line per key: a value that fits no branch of a union comes as a problem per branch."""
    by_key: dict[tuple[str, str], list[str]] = {}
    for problem in problems:
        by_key.setdefault((problem.key, problem.meaning), []).append(problem.complaint)
    return [f"{key}: {' or '.join(said)}{meaning}" for (key, meaning), said in by_key.items()]


def _problem(kind: type[BaseModel], details: ErrorDetails, told: Set[tuple[str, ...]]) -> _Problem:
    """The key with its value, the rule, and what the key means."""
    keys = _field_keys(kind, tuple(str(key) for key in details["loc"]))
    name = ".".join(keys) or "the file"
    source = " (from --set)" if keys in told else ""
    if details["type"] == "extra_forbidden":
        return _Problem(name + source, f"unknown key{_nearest(kind, keys)}")
    model = _model_at(kind, keys[:-1])
    field = model.model_fields.get(keys[-1]) if model and keys else None
    meaning = f" [{field.description}]" if field and field.description else ""
    if details["type"] == "missing":
        return _Problem(name, "missing, and it has no default", meaning)
    message = details["msg"].removeprefix("Value error, ").replace("Input should", "should")
    message = message.replace(" after validation", "")
    # What stands in place of a variable's name may be the key itself.
    hidden = isinstance(details["input"], dict) or name.endswith("_env")
    shown = "" if hidden else f" = {_shown(details['input'])}"
    return _Problem(name + shown + source, message, meaning)


def _field_keys(kind: type[BaseModel], keys: tuple[str, ...]) -> tuple[str, ...]:
    """Where the user finds it: pydantic appends the branch of a union that did not fit."""
    for depth in range(1, len(keys)):
        annotation = _annotation(kind, keys[:depth])
        if get_origin(annotation) in (Union, UnionType) and not list(_models(annotation)):
            return keys[:depth]
    return keys


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _nearest(kind: type[BaseModel], keys: tuple[str, ...]) -> str:
    """The known key that was probably meant, looked for in this section and then in all."""
    model = _model_at(kind, keys[:-1])
    known = list(model.model_fields) if model else []
    if near := difflib.get_close_matches(keys[-1], known, n=1):
        return f"; did you mean {'.'.join((*keys[:-1], near[0]))}?"
    elsewhere = [key for key in all_keys(kind) if key.rpartition(".")[2] == keys[-1]]
    if elsewhere:
        return f"; did you mean {elsewhere[0]}?"
    return f"; known here: {', '.join(known)}" if known else ""


def all_keys(kind: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key that a file may have, dotted, sections included."""
    for name in kind.model_fields:
        yield prefix + name
        if model := _model_at(kind, [name]):
            yield from all_keys(model, f"{prefix}{name}.")


def describe_keys(kind: type[BaseModel]) -> str:
    """Every key that holds a value as a row of a Markdown table, with its type and default."""
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key in all_keys(kind):
        *sections, name = key.split(".")
        model = _model_at(kind, sections)
        if model is None or _model_at(kind, key.split(".")) is not None:
            continue
        field = model.model_fields[name]
        meaning = (field.description or "").replace("|", "\\|")
        rows.append(f"| `{key}` | {_type(field)} | {_default(field)} | {meaning} |")
    return "\n".join(rows) + "\n"


def _type(field: FieldInfo) -> str:
    annotation = field.annotation
    union = get_origin(annotation) in (Union, UnionType)
    parts = [
        one for one in (get_args(annotation) if union else (annotation,)) if one is not NoneType
    ]
    return f"`{' | '.join(map(_type_name, parts))}`".replace("|", "\\|")


def _type_name(kind: object) -> str:
    if get_origin(kind) is Literal:
        return " | ".join(repr(value) for value in get_args(kind))
    return str(kind) if get_args(kind) else getattr(kind, "__name__", str(kind))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "" if value is None else f"`{orjson.dumps(value, default=str).decode()}`"
