"""A router goes live, or goes back: by the gate's verdict, or by a person's word, on record."""

from __future__ import annotations

import getpass
import hashlib
from datetime import UTC, datetime, timedelta

from pydantic import Field

from moa.errors import ConfigError, NotPromoted
from moa.evaluation.verdict import VERDICT, objections, read_verdict
from moa.router.artifact import read_artifact
from moa.router.facts import installed
from moa.router.promotions import (
    PROMOTIONS,
    Promotion,
    add,
    artifact_of,
    before,
    history,
    keep,
    latest,
)
from moa.storage.object_store import Folder
from moa.toml_file import Section

VERDICTS = "verdicts"


class PromoteRouterConfig(Section):
    """All that `jobs/promote_router.py` is told."""

    promotions: str = Field(
        description="Folder that keeps promotions, their routers and verdicts: a path, s3://… or "
        "gs://…; what router.artifact of the jobs and the endpoint names"
    )
    artifact: str = Field(description="Folder of the candidate: a path, s3://… or gs://…")
    evaluation: str = Field(
        description=f"Folder with {VERDICT} of the candidate, as jobs/evaluate_router.py writes it"
    )
    max_age_days: float = Field(
        default=7, gt=0, le=365, description="Of the verdict, at most; above 0 to 365"
    )
    by: str | None = Field(
        default=None, min_length=1, description="Who promotes; by default who is logged in"
    )


def promote(
    config: PromoteRouterConfig, *, force: str | None = None, now: datetime | None = None
) -> Promotion:
    """Let the candidate go live.

    Args:
        config: which, where, by which verdict.
        force: why it shall go live whatever the gate says; that is on record.
        now: by default this moment.

    Raises:
        NotPromoted: the gate's verdict does not permit it, or another promotion was quicker.
        ConfigError: there is no verdict.
        ArtifactError: the router is not there, or damaged.
    """
    now = now or datetime.now(UTC)
    folder = Folder(config.promotions)
    folder.check()
    artifact = read_artifact(installed(config.artifact))
    last = latest(folder)
    text = Folder(config.evaluation).read(VERDICT)
    found = _objections(config, text, artifact.version, last, now)
    if found and force is None:
        raise NotPromoted(f"router {artifact.version} does not go live: " + "\n  ".join(found))
    place = keep(artifact, folder)
    kept, sha256 = None, None
    if text is not None:
        sha256 = hashlib.sha256(text).hexdigest()
        kept = f"{VERDICTS}/{sha256}.json"
        folder.put(kept, text)
    reason = "the gate was passed"
    if force is not None:
        reason = f"forced: {force}" + (f" (against: {'; '.join(found)})" if found else "")
    promotion = Promotion(
        number=last.number + 1 if last else 1,
        artifact=place,
        version=artifact.version,
        verdict=kept,
        verdict_sha256=sha256,
        promoted_at=now,
        by=config.by or _user(),
        reason=reason,
    )
    return _add(folder, promotion)


def roll_back(
    config: PromoteRouterConfig, *, reason: str = "rolled back", now: datetime | None = None
) -> Promotion:
    """Let the router before go live again, another one than is live; it is looked at first.

    Raises:
        NotPromoted: there is none, or another promotion was quicker.
        ArtifactError: it is damaged.
    """
    folder = Folder(config.promotions)
    folder.check()
    promotions = history(folder)
    older = before(promotions)
    if older is None:
        raise NotPromoted(
            f"{folder.url}/{PROMOTIONS} has no router before the one in use: promote one"
        )
    found = read_artifact(artifact_of(folder.url, older))
    if found.version != older.version:
        raise NotPromoted(
            f"{found.url} is router {found.version}, and promotion {older.number} named "
            f"{older.version}: put that back, or promote another"
        )
    promotion = older.model_copy(
        update={
            "number": promotions[-1].number + 1,
            "promoted_at": now or datetime.now(UTC),
            "by": config.by or _user(),
            "reason": reason,
            "restores": older.number,
        }
    )
    return _add(folder, promotion)


def history_lines(folder: Folder) -> list[str]:
    """All promotions, a line each; the last one counts."""
    return [
        f"{one.number:06}  {one.promoted_at:%Y-%m-%d %H:%M} UTC  router {one.version}  "
        f"by {one.by}: {f'back to {one.restores:06}, ' if one.restores else ''}{one.reason}"
        for one in history(folder)
    ]


def _objections(
    config: PromoteRouterConfig,
    text: bytes | None,
    candidate: str,
    last: Promotion | None,
    now: datetime,
) -> list[str]:
    where = f"{config.evaluation}/{VERDICT}"
    if text is None:
        return [f"{where} is not there: evaluate the router first (jobs/evaluate_router.py)"]
    found = objections(
        read_verdict(text, where=where),
        candidate=candidate,
        current=last.version if last else None,
        now=now,
        max_age=timedelta(days=config.max_age_days),
    )
    if last is not None and last.version == candidate:
        found.append(f"it is in use already, since promotion {last.number}")
    return found


def _add(folder: Folder, promotion: Promotion) -> Promotion:
    if add(folder, promotion):
        return promotion
    other = latest(folder)
    by = f" by {other.by}, of router {other.version}" if other else ""
    raise NotPromoted(
        f"promotion {promotion.number} was given away meanwhile{by}: look at it (--history), and "
        "evaluate against what is in use now"
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container whose user has no name
        raise ConfigError("nobody is logged in by a name: say who promotes (by)") from None
