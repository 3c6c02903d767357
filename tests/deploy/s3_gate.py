"""A guard in front of an S3 server: it permits what the policies of `deploy/iam` permit, and keeps
a list of all that was asked for.

Who asks is told by the access key: the role's name, without `moa-`. Answers to what is not
permitted are S3's own, with its words; and as in S3, an object that is not there is 403, not 404,
to those who may not list the bucket.

    python -m tests.deploy.s3_gate UPSTREAM FOLDER

prints its port, reads `FOLDER/ROLE.json` (policies of identities) and `FOLDER/bucket/NAME.json`
(policies of buckets) at each request, and writes `FOLDER/asked.jsonl`. It ends with its stdin.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import aiohttp
from aiohttp import web
from yarl import URL

from tests.deploy.policies import ACCOUNT, Document, Request, effects_of, role_arn

_ARN = "arn:aws:s3:::"
_HOP = ("connection", "transfer-encoding", "content-length", "keep-alive", "content-encoding")
_BUCKET = {  # method and what the query names → action
    ("HEAD", ""): "s3:ListBucket",
    ("GET", ""): "s3:ListBucket",
    ("GET", "location"): "s3:GetBucketLocation",
    ("GET", "uploads"): "s3:ListBucketMultipartUploads",
    ("PUT", ""): "s3:CreateBucket",
    ("DELETE", ""): "s3:DeleteBucket",
}
_OBJECT = {
    ("HEAD", ""): "s3:GetObject",
    ("GET", ""): "s3:GetObject",
    ("PUT", ""): "s3:PutObject",
    ("POST", "uploads"): "s3:PutObject",
    ("POST", "uploadId"): "s3:PutObject",
    ("PUT", "uploadId"): "s3:PutObject",
    ("GET", "uploadId"): "s3:ListMultipartUploadParts",
    ("DELETE", "uploadId"): "s3:AbortMultipartUpload",
    ("DELETE", ""): "s3:DeleteObject",
}
_NAMED = ("location", "uploads", "uploadId", "acl", "tagging", "versionId", "policy", "delete")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a role asked for, and whether it was permitted."""

    role: str
    action: str
    resource: str
    permitted: bool


class S3Gate:
    """A gate that listens, from the side of whoever started it."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self._folder = url, folder

    def enforce(self, role: str, document: Document) -> None:
        """The policy of a role from now on."""
        (self._folder / f"{role}.json").write_text(json.dumps(document))

    def guard(self, bucket: str, document: Document) -> None:
        """The policy of a bucket from now on."""
        (self._folder / "bucket" / f"{bucket}.json").write_text(json.dumps(document))

    def asked(self, role: str) -> list[Asked]:
        """All that a role has asked for so far."""
        lines = (self._folder / "asked.jsonl").read_text().splitlines()
        return [one for one in (Asked(**json.loads(line)) for line in lines) if one.role == role]


@contextmanager
def s3_gate(upstream: str, folder: Path) -> Iterator[S3Gate]:
    """Start a gate in a process of its own; it ends with the block."""
    (folder / "bucket").mkdir(parents=True)
    (folder / "asked.jsonl").touch()
    command = [sys.executable, "-m", "tests.deploy.s3_gate", upstream, str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        cwd=Path(__file__).parents[2],
    ) as process:  # fmt: skip
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        assert port, "the gate did not start"
        try:
            yield S3Gate(f"http://127.0.0.1:{port}", folder)
        finally:
            process.terminate()


def requests_of(method: str, path: str, query: URL, body: bytes) -> list[Request]:
    """What an HTTP request to S3, addressed by path, wants to do.

    Raises:
        KeyError: a kind of request that this gate does not know.
    """
    bucket, _, key = unquote(path).lstrip("/").partition("/")
    named = next((one for one in _NAMED if one in query.query), "")
    if not bucket:
        return [Request("s3:ListAllMyBuckets", "*")]
    if key:
        return [Request(_OBJECT[method, named], f"{_ARN}{bucket}/{key}")]
    if (method, named) == ("POST", "delete"):
        keys = [one.text or "" for one in ElementTree.fromstring(body).iterfind(".//{*}Key")]
        return [Request("s3:DeleteObject", f"{_ARN}{bucket}/{one}") for one in keys]
    prefix = query.query.get("prefix")
    context = {} if prefix is None else {"s3:prefix": prefix}
    return [Request(_BUCKET[method, named], f"{_ARN}{bucket}", context)]


class _Gate:
    def __init__(self, upstream: str, folder: Path, client: aiohttp.ClientSession) -> None:
        self._upstream, self._folder, self._client = upstream, folder, client

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        found = re.search(r"Credential=([^/,]+)/", request.headers.get("Authorization", ""))
        role = found[1] if found else "nobody"
        for one in requests_of(request.method, request.rel_url.raw_path, request.rel_url, body):
            if not self._permits(role, one, note=True):
                return _denied(role, one)
        answer = await self._forward(request, body)
        bucket, _, key = request.rel_url.path.lstrip("/").partition("/")
        listing = Request("s3:ListBucket", f"{_ARN}{bucket}")
        if key and answer.status == 404 and not self._permits(role, listing, note=False):
            return _denied(role, listing)
        return answer

    def _permits(self, role: str, request: Request, *, note: bool) -> bool:
        arn = role_arn(role)
        # Whoever runs this for real comes by TLS.
        context = {"aws:SecureTransport": "true", "aws:PrincipalArn": arn, **request.context}
        asked = Request(request.action, request.resource, context)
        bucket = request.resource.removeprefix(_ARN).partition("/")[0]
        effects: set[str] = set()
        for file in (self._folder / f"{role}.json", self._folder / "bucket" / f"{bucket}.json"):
            if file.exists():
                effects |= effects_of(json.loads(file.read_text()), asked)
        permitted = "Allow" in effects and "Deny" not in effects
        if note:
            line = asdict(Asked(role, request.action, request.resource, permitted))
            with (self._folder / "asked.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
        return permitted

    async def _forward(self, request: web.Request, body: bytes) -> web.Response:
        url = URL(self._upstream + request.raw_path, encoded=True)
        async with self._client.request(
            request.method, url, headers=request.headers, data=body, allow_redirects=False
        ) as found:
            kept = [(k, v) for k, v in found.headers.items() if k.lower() not in _HOP]
            data = await found.read()
            answer = web.Response(status=found.status, body=data, headers=kept)
            if request.method == "HEAD" and "Content-Length" in found.headers:
                answer.headers["Content-Length"] = found.headers["Content-Length"]
            return answer


def _denied(role: str, request: Request) -> web.Response:
    """Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/troubleshoot-403-errors.html"""
    said = (
        f"User: arn:aws:sts::{ACCOUNT}:assumed-role/moa-{role}/session is not authorized to "
        f'perform: {request.action} on resource: "{request.resource}" because no '
        f"identity-based policy allows the {request.action} action"
    )
    text = f"<Error><Code>AccessDenied</Code><Message>{escape(said)}</Message></Error>"
    return web.Response(status=403, text=text, content_type="application/xml")


async def _serve(upstream: str, folder: Path) -> None:
    async with aiohttp.ClientSession(auto_decompress=False) as client:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", _Gate(upstream, folder, client).answer)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            sys.stdout.write(f"{runner.addresses[0][1]}\n")
            sys.stdout.flush()
            await asyncio.to_thread(sys.stdin.read)
        finally:
            await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], Path(sys.argv[2])))
