"""A Hugging Face hub of one machine: serves folders as repositories over HTTP, as much of its protocol as is asked for.

with fake_hub({"datasets/owner/tiny": folder}) as endpoint: ...      # endpoint for HF_ENDPOINT
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextlib.contextmanager
def fake_hub(repositories: Mapping[str, Path]) -> Iterator[str]:
    """Serve `kind/owner/name` → folder on a free port of the loopback until the block ends."""

    class Handler(_HubHandler):
        served = repositories

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class _HubHandler(http.server.BaseHTTPRequestHandler):
    served: Mapping[str, Path] = {}

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).strip("/")
        for name, folder in self.served.items():
            if path.startswith(f"api/{name}"):
                return self._api(folder, name, path.removeprefix(f"api/{name}").strip("/"), body)
            repository = name.removeprefix("models/")
            if path.startswith(f"{repository}/resolve/"):
                return self._file(folder / path.removeprefix(f"{repository}/resolve/").split("/", 1)[1])
        return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET
    do_POST = do_GET

    def _api(self, folder: Path, name: str, rest: str, body: str) -> None:
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        entries = [
            {"type": "file", "path": str(p.relative_to(folder)), "size": p.stat().st_size, "oid": _digest(p)}
            for p in files
        ]
        answer: Any
        if rest.startswith("tree/"):
            inside = "/".join(rest.split("/")[2:])
            answer = [entry for entry in entries if str(entry["path"]).startswith(inside)]
        elif rest.startswith("paths-info/"):
            asked = json.loads(body)["paths"] if body.startswith("{") else urllib.parse.parse_qs(body)["paths"]
            answer = [entry for entry in entries if entry["path"] in asked]
        else:
            siblings = [{"rfilename": entry["path"]} for entry in entries]
            answer = {"id": name.split("/", 1)[1], "sha": COMMIT, "siblings": siblings, "tags": [], "private": False}
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _file(self, path: Path) -> None:
        if not path.is_file():
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        return self._send(200, path.read_bytes(), {"ETag": f'"{_digest(path)}"', "X-Repo-Commit": COMMIT})

    def _send(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


def _digest(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
