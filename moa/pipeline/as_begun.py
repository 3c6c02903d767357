"""The config of a run that has begun: its own, but for what may change from start to start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moa.config import NOT_HASHED, RouteBatchConfig
from moa.errors import ConfigError, RunError
from moa.pipeline.failures import told_plainly
from moa.pipeline.job import run_folder_of
from moa.storage.run_folder import RunFolder
from moa.toml_file import check


def as_begun(given: RouteBatchConfig, overrides: Sequence[str] = ()) -> RouteBatchConfig:
    """The config that a run was first started with, and of the given one what is in `NOT_HASHED`:
    its place, its budget, its patience, its looks.

    Args:
        given: says by `run` which run is meant.
        overrides: as given to `--set`; what they change must be free to change.

    Raises:
        RunError: no such run has begun, or its folder cannot be read.
        ConfigError: an override differs from what the run was begun with, or that is of another
            version of this program.
    """
    run = RunFolder(run_folder_of(given))
    with told_plainly():
        first = run.first_start()
    if first is None:
        raise RunError(f"{run.url}: no run has begun here: name one that has by --set run.id=…")
    own = check(RouteBatchConfig, first["config"], where=f"{run.url}/config.json")
    for text in overrides:
        _check_same(text.partition("=")[0].strip(), own, given)
    changed: dict[str, Any] = {}
    for name, keys in NOT_HASHED.items():
        before, now = getattr(own, name), getattr(given, name)
        if keys is True:
            changed[name] = now
        elif before is not None and now is not None:
            changed[name] = before.model_copy(update={key: getattr(now, key) for key in keys})
    return own.model_copy(update=changed)


def _check_same(key: str, own: RouteBatchConfig, given: RouteBatchConfig) -> None:
    before, now = (_at(key, one) for one in (own, given))
    if before != now:
        raise ConfigError(
            f"--set {key}: the run was begun with {before}, and what it has decided cannot be "
            f"sent again with {now}: leave it out, or start another run"
        )


def _at(key: str, config: RouteBatchConfig) -> object:
    """The value of a key that must not change; `None` of any other."""
    value: object = config.model_dump(mode="json", exclude=NOT_HASHED)
    for name in key.split("."):
        value = value.get(name.strip()) if isinstance(value, Mapping) else None
    return value
