"""Start the night that is due, as a RayJob of its own, and end as it ends.

The CronJob runs this. The RayJob's name is the run's id, and comes from the schedule alone, so that
a second pod, or a retry, finds the night that is under way instead of starting another. Standard
library only.

Exit code: 0 the night's run has finished, 1 it failed or may not be started, 75 the API server was
out for too long (the Job tries again).
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import sys
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

FAILED, TEMPORARY = 1, 75
OVER = ("Complete", "Failed", "ValidationFailed")
"""`status.jobDeploymentStatus` of a RayJob that KubeRay will not run again."""
WATCH_S = 240
"""Of one watch; the server ends it then, and the next one begins."""
PATIENCE_S = 600.0
"""That the API server may be out, restarts and upgrades of it included."""
LONGEST_PAUSE_S = 30.0
LONGEST_NAME = 47
"""Of a RayJob, by KubeRay: it makes longer names of it."""
MINUTES = 8
"""Digits at least of a CronJob's time; what has fewer was named by hand."""

Object = dict[str, Any]


class Refused(Exception):
    """The API server's answer, which asking again would not change."""


class NotFound(Refused):
    """There is no such object."""


class AlreadyThere(Refused):
    """There is an object of that name."""


class Out(Exception):
    """The API server does not answer, or not now."""


class Night(NamedTuple):
    """What is to be started, and for whom."""

    name: str
    template: str
    labels: dict[str, str]
    owner: Object


def night_of(environ: dict[str, str]) -> Night:
    """The night that this Job stands for.

    Raises:
        Refused: the Job's name tells no night.
    """
    template, job = environ["TEMPLATE"], environ["JOB_NAME"]
    prefix = f"start-{template}-"
    if not job.startswith(prefix) or job == prefix:
        raise Refused(
            f"Job {job!r} tells no night: kubectl create job --from=cronjob/start-{template} "
            f"{prefix}NIGHT, with a NIGHT like 2026-11-26"
        )
    night = job.removeprefix(prefix)
    if night.isdigit() and len(night) >= MINUTES:  # a CronJob's Job: minutes since the epoch
        night = _date(int(night), environ["TIME_ZONE"]).isoformat()
    name = f"{template}-{night}"
    if len(name) > LONGEST_NAME:
        raise Refused(f"{name!r} has {len(name)} characters, a RayJob at most {LONGEST_NAME}")
    pairs = (pair.split("=", 1) for pair in environ.get("NIGHT_LABELS", "").split(",") if pair)
    return Night(name, template, dict(pairs), _owner(job, environ["JOB_UID"]))


def _date(minutes: int, time_zone: str) -> date:
    when = datetime.fromtimestamp(minutes * 60, UTC)
    try:
        return (when if time_zone == "Etc/UTC" else when.astimezone(ZoneInfo(time_zone))).date()
    except (ZoneInfoNotFoundError, ValueError):
        raise Refused(f"TIME_ZONE is {time_zone!r}, which this image does not know") from None


def _owner(job: str, uid: str) -> Object:
    """So that a night goes when its Job does: the CronJob's history limits say how many stay."""
    return {"apiVersion": "batch/v1", "kind": "Job", "name": job, "uid": uid}


def ray_job(template: Object, night: Night) -> Object:
    """The night's RayJob, as the template says, but not suspended."""
    metadata = template["metadata"]
    kept = {
        key: value
        for key, value in metadata.get("annotations", {}).items()
        if not key.startswith("kubectl.kubernetes.io/")
    }
    return {
        "apiVersion": template["apiVersion"],
        "kind": template["kind"],
        "metadata": {
            "name": night.name,
            "namespace": metadata["namespace"],
            "labels": {**metadata.get("labels", {}), **night.labels},
            "annotations": kept,
            "ownerReferences": [night.owner],
        },
        "spec": {**template["spec"], "suspend": False},
    }


class ApiServer:
    """RayJobs of one namespace, by the pod's service account."""

    def __init__(self, environ: dict[str, str]) -> None:
        self._host = environ["KUBERNETES_SERVICE_HOST"]
        self._port = int(environ["KUBERNETES_SERVICE_PORT"])
        self._account = Path(environ["SERVICE_ACCOUNT_FOLDER"])
        self._path = f"/apis/ray.io/v1/namespaces/{environ['NAMESPACE']}/rayjobs"

    def read(self, name: str) -> Object:
        """One RayJob.

        Raises:
            Refused, Out: as `_asked`.
        """
        return self._whole("GET", f"{self._path}/{name}")

    def create(self, document: Object) -> Object:
        """The RayJob as the server keeps it.

        Raises:
            Refused, Out: as `_asked`.
        """
        return self._whole("POST", self._path, json.dumps(document).encode())

    def changes(self, name: str, version: str) -> Iterator[Object]:
        """What becomes of a RayJob after this version, until the server has said enough.

        Raises:
            Refused, Out: as `_asked`, and when the connection breaks.
        """
        query = urlencode(
            {
                "watch": "1",
                "fieldSelector": f"metadata.name={name}",
                "resourceVersion": version,
                "timeoutSeconds": WATCH_S,
            }
        )
        connection = self._connection()
        try:
            answer = self._asked(connection, "GET", f"{self._path}?{query}")
            while line := answer.readline():
                yield json.loads(line)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Out(f"the watch broke: {error!r}") from error
        finally:
            connection.close()

    def _whole(self, method: str, path: str, body: bytes | None = None) -> Object:
        connection = self._connection()
        try:
            document: Object = json.loads(self._asked(connection, method, path, body).read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Out(f"{method} {path}: {error!r}") from error
        finally:
            connection.close()
        return document

    def _connection(self) -> http.client.HTTPSConnection:
        trust = ssl.create_default_context(cafile=str(self._account / "ca.crt"))
        # A watch is silent for as long as nothing changes.
        return http.client.HTTPSConnection(
            self._host, self._port, timeout=WATCH_S + 30, context=trust
        )

    def _asked(
        self,
        connection: http.client.HTTPSConnection,
        method: str,
        path: str,
        body: bytes | None = None,
    ) -> http.client.HTTPResponse:
        """The answer, of which the status is good.

        Raises:
            Refused: 4xx, with the server's own words.
            Out: 429 or 5xx.
        """
        token = (self._account / "token").read_text().strip()  # a new one every hour
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        if answer.status < 300:
            return answer
        said = f"{method} {path}: {answer.status} {_message(answer.read())}"
        if answer.status == 429 or answer.status >= 500:
            raise Out(said)
        raise {404: NotFound, 409: AlreadyThere}.get(answer.status, Refused)(said)


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace")[:300]


def started(server: ApiServer, night: Night) -> Object:
    """The night's RayJob, whoever has made it.

    Raises:
        Refused, Out: as the server says.
    """
    try:
        template = server.read(night.template)
    except NotFound as error:
        raise Refused(f"there is no RayJob {night.template!r} to make nights of: {error}") from None
    try:
        made = server.create(ray_job(template, night))
    except AlreadyThere:
        say(f"{night.name}: is there already, and is followed")
        return server.read(night.name)
    say(f"{night.name}: made from {night.template}; run.id={night.name}")
    return made


def followed(server: ApiServer, night: Night, seen: Object) -> Object:
    """The RayJob once it is over, or as it is after one watch.

    Raises:
        Refused: it was deleted.
        Out: the connection broke.
    """
    if _phase(seen) in OVER:
        return seen
    for event in server.changes(night.name, seen["metadata"]["resourceVersion"]):
        if event["type"] == "DELETED":
            raise Refused(f"{night.name} was deleted while it ran; what it has done is kept")
        if event["type"] == "ERROR":  # most often 410: the version is too old to begin from
            break
        if _phase(event["object"]) != _phase(seen):
            say(f"{night.name}: {_phase(event['object']) or 'New'}")
        seen = event["object"]
        if _phase(seen) in OVER:
            return seen
    return server.read(night.name)


def _phase(document: Object) -> str:
    return str(document.get("status", {}).get("jobDeploymentStatus", ""))


def end_of(server: ApiServer, night: Night) -> Object:
    """The night's RayJob when it is over.

    Raises:
        Refused: it cannot be started, or was deleted.
        Out: the API server was out for longer than `PATIENCE_S`.
    """
    seen: Object | None = None
    out_since: float | None = None
    pause_s = 1.0
    while seen is None or _phase(seen) not in OVER:
        try:
            seen = started(server, night) if seen is None else followed(server, night, seen)
            out_since, pause_s = None, 1.0
        except Out as error:
            out_since = out_since or time.monotonic()
            if time.monotonic() - out_since > PATIENCE_S:
                raise
            say(f"{night.name}: {error}; again in {pause_s:g} s")
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
    return seen


def say(line: str) -> None:
    """Write a line to the pod's log at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Start and follow; the exit code."""
    try:
        night = night_of(dict(os.environ))
        over = end_of(ApiServer(dict(os.environ)), night)
    except Refused as error:
        say(f"REFUSED: {error}")
        return FAILED
    except Out as error:
        say(f"the API server was out for {PATIENCE_S:g} s: {error}")
        return TEMPORARY
    status = over["status"]
    good = _phase(over) == "Complete" and status.get("jobStatus") == "SUCCEEDED"
    why = " ".join(str(status[key]) for key in ("reason", "message") if status.get(key))
    say(f"{night.name}: {'finished' if good else 'FAILED'} {why}".rstrip())
    return 0 if good else FAILED


if __name__ == "__main__":
    sys.exit(main())
