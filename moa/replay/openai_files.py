"""OpenAI's files, as far as batches need them (state of November 2026)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from moa.catalog import Wire
from moa.replay.batch_call import Call, json_reply, lines_reply
from moa.replay.batch_life import Batch
from moa.replay.batches import BatchBook
from moa.replay.wire import Reply, Trouble, multipart, new_request_id

_PROVIDER: Wire = "openai"


@dataclass
class File:
    """A stored file; one of results is written when it is first looked at."""

    id: str
    name: str
    purpose: str
    owner: str
    created_s: float
    expires_s: float | None
    write: Callable[[], bytes] = field(repr=False)
    batch: Batch | None = None

    @cached_property
    def content(self) -> bytes:
        """Its bytes."""
        return self.write()


class OpenAIFiles:
    """What was uploaded, and the results of batches.

    Args:
        book: knows the time.
    """

    def __init__(self, book: BatchBook) -> None:
        self._book = book
        self._files: dict[str, File] = {}
        self._kept: set[str] = set()

    def upload(self, call: Call) -> Reply | Trouble:
        """Keep a file."""
        parts = {p.name: p for p in multipart(call.headers.get("Content-Type", ""), call.body)}
        file, purpose = parts.get("file"), parts.get("purpose")
        if file is None or purpose is None:
            missing = "purpose" if purpose is None else "file"
            return Trouble(400, f"'{missing}' is a required property")
        lasts = parts.get("expires_after[seconds]")
        now_s = self._book.now(_PROVIDER)
        content = file.content
        stored = File(
            id=f"file-{new_request_id()}",
            name=file.filename,
            purpose=purpose.content.decode(),
            owner=call.key,
            created_s=now_s,
            expires_s=now_s + int(lasts.content) if lasts else None,
            write=lambda: content,
        )
        self._files[stored.id] = stored
        return json_reply(_document(stored))

    def get(self, file_id: str, owner: str) -> File | None:
        """A file of this owner's; `None` when there is none, or none any more."""
        file = self._files.get(file_id)
        if file is None or file.owner != owner:
            return None
        over = file.expires_s is not None and self._book.now(_PROVIDER) >= file.expires_s
        return None if over else file

    def of(self, call: Call) -> Reply | Trouble:
        """Show, read or delete a file."""
        file = self.get(call.names["id"], call.key)
        if file is None:
            return Trouble(404, f"No such File object: {call.names['id']}")
        if call.operation == "file":
            return json_reply(_document(file))
        if call.operation == "delete":
            del self._files[file.id]
            return json_reply({"id": file.id, "object": "file", "deleted": True})
        if file.batch is not None:
            file.batch.fetches += 1
        return lines_reply(file.content)

    def keep_results(self, batch: Batch, kind: str, write: Callable[[Batch], bytes]) -> str:
        """Keep results of an ended batch, to be written when they are asked for; the file's id.

        Args:
            batch: whose.
            kind: `output` or `error`.
            write: the file's content.
        """
        file_id = f"file-{kind}-{batch.id.removeprefix('batch_')}"
        if file_id not in self._kept:
            self._kept.add(file_id)
            self._files[file_id] = File(
                id=file_id,
                name=f"{batch.id}_{kind}.jsonl",
                purpose="batch_output",
                owner=batch.owner,
                created_s=batch.ends_s,
                expires_s=None,
                write=lambda: write(batch),
                batch=batch,
            )
        return file_id


def _document(file: File) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": len(file.content),
        "created_at": int(file.created_s),
        "expires_at": None if file.expires_s is None else int(file.expires_s),
        "filename": file.name,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }
