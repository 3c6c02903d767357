"""Google Cloud Storage, as far as the project uses it: objects in memory (state of November 2026).

The JSON API where Google's clients look for it when `STORAGE_EMULATOR_HOST` is this server's URL:
`/storage/v1/b/BUCKET/o/NAME`, `/upload/storage/v1/b/BUCKET/o` (media, multipart, resumable),
`/download/storage/…`. Every bucket is there. `ifGenerationMatch` is kept, other conditions are not
known, nor are access rights: nobody asks for a key.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import google_crc32c
import orjson

from moa.replay.batch_call import Call, Route, json_reply, page_size, rfc_3339
from moa.replay.wire import Reply, Target, Trouble, document_of, multipart

_BUCKET = "(?P<bucket>[^/]+)"
_TARGET = Target(vertex=True)
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")


@dataclass(frozen=True, slots=True)
class Object:
    """A stored object."""

    bucket: str
    name: str
    data: bytes = field(repr=False)
    content_type: str
    generation: int
    """Grows with every write, of any object."""
    written_s: float

    def hashes(self) -> dict[str, str]:
        """As its metadata has them."""
        crc = google_crc32c.value(self.data).to_bytes(4, "big")
        md5 = hashlib.md5(self.data, usedforsecurity=False).digest()
        return {
            "crc32c": base64.b64encode(crc).decode(),
            "md5Hash": base64.b64encode(md5).decode(),
        }


class Objects:
    """What is stored.

    Args:
        clock: seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._objects: dict[tuple[str, str], Object] = {}
        self._generation = 1_000

    def get(self, bucket: str, name: str) -> Object | None:
        """An object; `None` when there is none."""
        return self._objects.get((bucket, name))

    def put(self, bucket: str, name: str, data: bytes, content_type: str) -> Object:
        """Write an object, in place of one that is there."""
        self._generation += 1
        stored = Object(bucket, name, data, content_type, self._generation, self._clock())
        self._objects[bucket, name] = stored
        return stored

    def delete(self, bucket: str, name: str) -> None:
        """Delete an object that is there."""
        del self._objects[bucket, name]

    def of(self, bucket: str, prefix: str = "") -> Iterator[Object]:
        """Objects of a bucket, sorted by name."""
        for (holder, name), stored in sorted(self._objects.items()):
            if holder == bucket and name.startswith(prefix):
                yield stored


@dataclass(slots=True)
class _Upload:
    """A resumable upload that is under way."""

    name: str
    content_type: str
    query: Mapping[str, str]
    data: bytearray = field(default_factory=bytearray)


class GoogleStorage:
    """See `moa.replay.batch_call.Desk`.

    Args:
        objects: what is stored.
        before: called before anything is read or written.
    """

    routes = tuple(
        Route(method, re.compile(path), operation, keyless=True, faultless=True)
        for method, path, operation in (
            ("POST", f"/upload/storage/v1/b/{_BUCKET}/o", "object write"),
            ("PUT", f"/upload/storage/v1/b/{_BUCKET}/o", "object write"),
            ("GET", f"(?:/download)?/storage/v1/b/{_BUCKET}/o/(?P<name>.+)", "object read"),
            ("DELETE", f"/storage/v1/b/{_BUCKET}/o/(?P<name>.+)", "object delete"),
            ("GET", f"/storage/v1/b/{_BUCKET}/o", "object list"),
            ("GET", f"/storage/v1/b/{_BUCKET}", "bucket"),
        )
    )

    def __init__(self, objects: Objects, before: Callable[[], None]) -> None:
        self._objects, self._before = objects, before
        self._uploads: dict[str, _Upload] = {}

    def target(self, names: Mapping[str, str]) -> Target:
        """See `Desk.target`."""
        return _TARGET

    def answer(self, call: Call) -> Reply | Trouble:
        """See `Desk.answer`."""
        self._before()
        bucket = call.names["bucket"]
        match call.operation:
            case "object write":
                return self._write(call, bucket)
            case "object list":
                return self._list(call, bucket)
            case "bucket":
                return json_reply({"kind": "storage#bucket", "id": bucket, "name": bucket})
        stored = self._objects.get(bucket, call.names["name"])
        if stored is None or not _is_wanted(stored, call.query):
            return Trouble(404, f"No such object: {bucket}/{call.names['name']}")
        if call.operation == "object delete":
            self._objects.delete(bucket, stored.name)
            return Reply(204, {}, b"")
        media = call.query.get("alt") == "media"
        return _content(stored, call.headers) if media else _metadata(stored, call.origin)

    def _write(self, call: Call, bucket: str) -> Reply | Trouble:
        kind, upload_id = call.query.get("uploadType", "media"), call.query.get("upload_id")
        content_type = call.headers.get("Content-Type", "")
        if upload_id is not None:
            return self._go_on(call, bucket, upload_id)
        if kind == "resumable":
            return self._begin(call)
        if kind == "multipart":
            parts = multipart(content_type, call.body)
            if len(parts) != 2:
                return Trouble(400, "Malformed multipart body.")
            about = document_of(parts[0].content) or {}
            name, data = str(about.get("name") or call.query.get("name", "")), parts[1].content
            content_type = str(about.get("contentType", ""))
        else:
            name, data = call.query.get("name", ""), call.body
        return self._store(call, bucket, _Upload(name, content_type, call.query, bytearray(data)))

    def _begin(self, call: Call) -> Reply | Trouble:
        about = document_of(call.body) or {}
        name = str(about.get("name") or call.query.get("name", ""))
        kind = call.headers.get("X-Upload-Content-Type") or str(about.get("contentType", ""))
        upload_id = secrets.token_hex(16)
        self._uploads[upload_id] = _Upload(name, kind, call.query)
        where = f"{call.origin}/upload/storage/v1/b/{quote(call.names['bucket'], safe='')}/o"
        location = f"{where}?uploadType=resumable&upload_id={upload_id}"
        return Reply(200, {"Location": location, "X-GUploader-UploadID": upload_id}, b"")

    def _go_on(self, call: Call, bucket: str, upload_id: str) -> Reply | Trouble:
        upload = self._uploads.get(upload_id)
        if upload is None:
            return Trouble(404, "No such upload.")
        said = _CONTENT_RANGE.fullmatch(call.headers.get("Content-Range", "bytes 0-0/*"))
        if said is None or int(said[1] or len(upload.data)) != len(upload.data):
            return Trouble(400, "Content-Range does not go on where the upload is.")
        upload.data += call.body
        whole = said[2] != "*" and len(upload.data) >= int(said[2])
        if whole or "Content-Range" not in call.headers:
            del self._uploads[upload_id]
            return self._store(call, bucket, upload)
        headers = {"Range": f"bytes=0-{len(upload.data) - 1}"} if upload.data else {}
        return Reply(308, headers, b"")

    def _store(self, call: Call, bucket: str, upload: _Upload) -> Reply | Trouble:
        if not upload.name:
            return Trouble(400, "Required parameter: name")
        wanted = upload.query.get("ifGenerationMatch")
        there = self._objects.get(bucket, upload.name)
        if wanted is not None and int(wanted) != (there.generation if there else 0):
            return Trouble(412, "At least one of the pre-conditions you specified did not hold.")
        kind = upload.content_type or "application/octet-stream"
        stored = self._objects.put(bucket, upload.name, bytes(upload.data), kind)
        return _metadata(stored, call.origin)

    def _list(self, call: Call, bucket: str) -> Reply:
        prefix, delimiter = call.query.get("prefix", ""), call.query.get("delimiter", "")
        after = call.query.get("pageToken", "")
        start, end = call.query.get("startOffset", ""), call.query.get("endOffset")
        size = page_size(call.query, "maxResults", 1000, 1000)
        items: list[dict[str, Any]] = []
        prefixes: set[str] = set()
        document: dict[str, Any] = {"kind": "storage#objects"}
        for stored in self._objects.of(bucket, prefix):
            if stored.name <= after or stored.name < start or (end and stored.name >= end):
                continue
            folder, found, _ = stored.name[len(prefix) :].partition(delimiter or "\0")
            if delimiter and found:
                prefixes.add(prefix + folder + delimiter)
                continue
            if len(items) == size:
                document["nextPageToken"] = items[-1]["name"]
                break
            items.append(_about(stored, call.origin))
        return json_reply({**document, "items": items, "prefixes": sorted(prefixes)})


def _is_wanted(stored: Object, query: Mapping[str, str]) -> bool:
    generation = query.get("generation")
    return generation is None or int(generation) == stored.generation


def _about(stored: Object, origin: str) -> dict[str, Any]:
    where = f"/storage/v1/b/{quote(stored.bucket, safe='')}/o/{quote(stored.name, safe='')}"
    written_at = rfc_3339(stored.written_s)
    return {
        "kind": "storage#object",
        "id": f"{stored.bucket}/{stored.name}/{stored.generation}",
        "selfLink": origin + where,
        "mediaLink": f"{origin}/download{where}?generation={stored.generation}&alt=media",
        "name": stored.name,
        "bucket": stored.bucket,
        "generation": str(stored.generation),
        "metageneration": "1",
        "contentType": stored.content_type,
        "storageClass": "STANDARD",
        "size": str(len(stored.data)),
        "etag": f"etag-{stored.generation}",
        "timeCreated": written_at,
        "updated": written_at,
        **stored.hashes(),
    }


def _metadata(stored: Object, origin: str) -> Reply:
    return Reply(200, {}, orjson.dumps(_about(stored, origin)))


def _content(stored: Object, headers: Mapping[str, str]) -> Reply:
    """An object's bytes, or the range of them that is asked for."""
    hashes = stored.hashes()
    told = {
        "Content-Type": stored.content_type,
        "ETag": f"etag-{stored.generation}",
        "X-Goog-Generation": str(stored.generation),
        "X-Goog-Metageneration": "1",
        "X-Goog-Stored-Content-Length": str(len(stored.data)),
        "X-Goog-Hash": f"crc32c={hashes['crc32c']},md5={hashes['md5Hash']}",
    }
    size = len(stored.data)
    said = _RANGE.fullmatch(headers.get("Range", ""))
    if said is None:
        return Reply(200, told, stored.data)
    first = int(said[1]) if said[1] else max(0, size - int(said[2]))
    last = min(int(said[2]), size - 1) if said[1] and said[2] else size - 1
    if first >= size:
        return Reply(416, {"Content-Range": f"bytes */{size}"}, b"")
    told["Content-Range"] = f"bytes {first}-{last}/{size}"
    return Reply(206, told, stored.data[first : last + 1])
