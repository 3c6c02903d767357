"""Which router counts: a folder in which the last of numbered files says so.

    FOLDER/promotions/000007.json    a `Promotion`; the greatest number counts
    FOLDER/routers/VERSION/          what was promoted, copied, so that nobody can change it
    FOLDER/verdicts/HASH.json        what the gate has said of it

A number is given once, by a conditional put: of two that promote at once one is told no. So a
promotion is atomic, the history stays, and a rollback is one more file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime

from pydantic import Field, ValidationError

from moa.config import ModelSource
from moa.errors import ArtifactError
from moa.router.artifact import (
    CARDS,
    DESCRIPTION,
    WEIGHTS,
    Artifact,
    read_artifact,
    version_of,
)
from moa.router.backbone_spec import LanguageModelSpec
from moa.router.model_files import ADAPTER, find_adapter, find_model
from moa.storage.object_store import Folder
from moa.toml_file import Section

PROMOTIONS = "promotions"
ROUTERS = "routers"


class Promotion(Section):
    """From then on, this router counts."""

    number: int = Field(ge=1)
    artifact: str = Field(description="URL, absolute or relative to the folder")
    version: str = Field(description="Of the artifact")
    verdict: str | None = Field(description="Of the gate, relative to the folder; null without one")
    verdict_sha256: str | None
    promoted_at: datetime
    by: str
    reason: str
    restores: int | None = Field(default=None, description="Number that a rollback goes back to")


def history(folder: Folder) -> list[Promotion]:
    """All promotions, the last one counts.

    Raises:
        ArtifactError: one of them cannot be read.
    """
    names = [name for name in folder.names(PROMOTIONS) if name.endswith(".json")]
    return [_read(folder, name) for name in names]


def latest(folder: Folder) -> Promotion | None:
    """The one that counts; `None` before the first.

    Raises:
        ArtifactError: it cannot be read.
    """
    names = [name for name in folder.names(PROMOTIONS) if name.endswith(".json")]
    return _read(folder, names[-1]) if names else None


def add(folder: Folder, promotion: Promotion) -> bool:
    """Write the next promotion; `False` when another has its number."""
    data = promotion.model_dump_json(indent=2).encode() + b"\n"
    return folder.create(f"{PROMOTIONS}/{promotion.number:06}.json", data)


def before(promotions: Sequence[Promotion]) -> Promotion | None:
    """What a rollback goes back to: the last promotion of another router before the one that
    counts. What was rolled back from is none of them. `None` when there is none."""
    standing: list[Promotion] = []
    for one in promotions:
        if one.restores is None:
            standing.append(one)
        else:
            standing = [older for older in standing if older.number <= one.restores]
    older = [one for one in standing if one.version != promotions[-1].version]
    return older[-1] if older else None


def promoted(url: str, *, version: str | None = None) -> str:
    """Where a router is: a folder of promotions leads to the one that counts, any other to itself.

    Args:
        url: a path, `s3://…` or `gs://…`.
        version: of the router that a run has begun with; it is kept, if it was ever promoted.

    Raises:
        ArtifactError: what was promoted is not there any more, or is another one.
    """
    folder = Folder(url)
    if folder.read(DESCRIPTION) is not None:
        return url
    last = latest(folder)
    if last is None:
        return url
    if version is not None and version != last.version:
        last = next((one for one in reversed(history(folder)) if one.version == version), last)
    found = artifact_of(url, last)
    text = Folder(found).read(DESCRIPTION)
    if text is None or version_of(text) != last.version:
        problem = "is not there" if text is None else f"is of the router {version_of(text)}"
        raise ArtifactError(
            f"{found}/{DESCRIPTION} {problem}, and promotion {last.number} of {url} names the "
            f"router {last.version}: put it back, or roll back (jobs/promote_router.py --rollback)"
        )
    return found


def artifact_of(url: str, promotion: Promotion) -> str:
    """Where a router is that was promoted in the folder `url`."""
    absolute = "://" in promotion.artifact or promotion.artifact.startswith("/")
    return promotion.artifact if absolute else f"{url.rstrip('/')}/{promotion.artifact}"


def keep(artifact: Artifact, folder: Folder) -> str:
    """Copy a router, with the language model and the adapter that lie in its folder, to where no
    training writes; its place in the folder of promotions.

    Raises:
        ArtifactError: a file is not as the artifact says, or was not written as it was read.
    """
    place, source = f"{ROUTERS}/{artifact.version}", Folder(artifact.url)
    names = [WEIGHTS, *CARDS]
    spec = artifact.description.backbone
    if isinstance(spec, LanguageModelSpec):
        names += _of_language_model(spec, source)
    for name in (*names, DESCRIPTION):  # the description last: with it, the router is there
        data = source.read(name)
        wanted = artifact.description.sha256.get(name)
        if data is None or (wanted is not None and hashlib.sha256(data).hexdigest() != wanted):
            raise ArtifactError(
                f"{source.url}/{name} is {'not there' if data is None else 'damaged'}: "
                f"{DESCRIPTION} has its hash. Fetch it again, or train again"
            )
        if name == DESCRIPTION and version_of(data) != artifact.version:
            raise ArtifactError(
                f"{artifact.url} was changed while it was copied, from {artifact.version} to "
                f"{version_of(data)}: evaluate it again once nobody writes to it"
            )
        _put(folder, f"{place}/{name}", data)
    read_artifact(f"{folder.url}/{place}")
    return place


def _of_language_model(spec: LanguageModelSpec, source: Folder) -> list[str]:
    """Names of the files of a model and an adapter inside an artifact, which are verified."""
    names = []
    for inside in (spec.name, ADAPTER):
        names += [f"{inside}/{name}" for name in source.names(inside)]
    if any(name.startswith(f"{spec.name}/") for name in names):
        find_model(spec, ModelSource(), artifact=source.url)
    find_adapter(spec, ModelSource(), artifact=source.url)
    return names


def _put(folder: Folder, name: str, data: bytes) -> None:
    if folder.read(name) == data:
        return
    folder.put(name, data)
    if folder.read(name) != data:
        raise ArtifactError(f"{folder.url}/{name} is not as it was written: who changes it?")


def _read(folder: Folder, name: str) -> Promotion:
    url = f"{folder.url}/{PROMOTIONS}/{name}"
    try:
        found = Promotion.model_validate_json(folder.read(f"{PROMOTIONS}/{name}") or b"")
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ArtifactError(f"{url} is no promotion ({problems}): restore it") from None
    if name != f"{found.number:06}.json":
        raise ArtifactError(f"{url} says that its number is {found.number}: restore it")
    return found
