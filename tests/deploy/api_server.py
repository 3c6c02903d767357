"""What of Kubernetes' API server `start_nightly.py` asks: TLS, tokens, versions and watches."""

from __future__ import annotations

import json
import subprocess
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from ssl import PROTOCOL_TLS_SERVER, SSLContext
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.deploy.manifests import Document

TOKEN = "of-the-service-account"
CUT = "cut"
"""In place of a change: the connection breaks in the middle of a line."""
GONE = "gone"
"""In place of a change: the version that the watch began from is too old."""
DELETED = "deleted"


class ApiServer(ThreadingHTTPServer):
    """RayJobs of the namespace `moa`.

    Each watch tells of the next list of changes, which happen while it lasts, and ends.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, account: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        context = SSLContext(PROTOCOL_TLS_SERVER)
        context.load_cert_chain(account / "ca.crt", account / "key.pem")
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.objects: dict[str, Document] = {}
        self.asked: list[tuple[str, str]] = []
        """Verb, as a Role names it, and the RayJob's name where there is one."""
        self.answers: deque[tuple[int, str] | None] = deque()
        """Status and message that the next requests get; `None` is served."""
        self.watches: deque[list[Document | str]] = deque()
        """Of each watch: statuses of the RayJob, or what goes wrong."""
        self._version = 100

    def put(self, document: Document) -> Document:
        """Keep an object under its name, with a new version."""
        self._version += 1
        document["metadata"]["resourceVersion"] = str(self._version)
        self.objects[document["metadata"]["name"]] = document
        return document

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """A client that has gone is nothing to tell of."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ApiServer
    root = "/apis/ray.io/v1/namespaces/moa/rayjobs"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        query = {key: value[0] for key, value in parse_qs(address.query).items()}
        name = address.path.removeprefix(self.root).strip("/")
        if not name:
            name = query["fieldSelector"].removeprefix("metadata.name=")
        if not self._permitted("watch" if query.get("watch") == "1" else "get", name):
            return
        if query.get("watch") == "1":
            self._watch(name, int(query["resourceVersion"]))
        elif name in self.server.objects:
            self._whole(200, self.server.objects[name])
        else:
            self._refuse(404, f'rayjobs.ray.io "{name}" not found')

    def do_POST(self) -> None:
        document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = document["metadata"]["name"]
        if not self._permitted("create", name):
            return
        if name in self.server.objects:
            self._refuse(409, f'rayjobs.ray.io "{name}" already exists')
        else:
            self._whole(201, self.server.put(document))

    def _permitted(self, verb: str, name: str) -> bool:
        self.server.asked.append((verb, name))
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self._refuse(401, "Unauthorized")
            return False
        answer = self.server.answers.popleft() if self.server.answers else None
        if answer is not None:
            self._refuse(*answer)
        return answer is None

    def _watch(self, name: str, version: int) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        known = self.server.objects[name]
        if int(known["metadata"]["resourceVersion"]) > version:  # a change that it has missed
            self._event("MODIFIED", known)
        for change in self.server.watches.popleft() if self.server.watches else []:
            if change == CUT:
                self.wfile.write(b'400\r\n{"type": "MODI')
                self.close_connection = True
                return
            if change == GONE:
                self._event("ERROR", {"kind": "Status", "code": 410, "reason": "Expired"})
            elif change == DELETED:
                self._event("DELETED", self.server.objects.pop(name))
            else:
                self._event("MODIFIED", self.server.put({**known, "status": change}))
        self.wfile.write(b"0\r\n\r\n")

    def _event(self, kind: str, document: Document) -> None:
        line = json.dumps({"type": kind, "object": document}).encode() + b"\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))

    def _refuse(self, code: int, message: str) -> None:
        self._whole(code, {"kind": "Status", "status": "Failure", "message": message, "code": code})

    def _whole(self, code: int, document: Document) -> None:
        body = json.dumps(document).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def api_server(account: Path) -> Iterator[ApiServer]:
    """A server, and in the folder what a pod has of its service account."""
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
            "-nodes", "-days", "1", "-subj", "/CN=kubernetes",
            "-addext", "subjectAltName=IP:127.0.0.1",
            "-keyout", str(account / "key.pem"), "-out", str(account / "ca.crt"),
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    (account / "token").write_text(TOKEN)
    with ApiServer(account) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
