"""As much of the Hugging Face hub's HTTP interface as fetching a model needs."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

import pytest

COMMIT = "c0ffee" + "0" * 34
REVISIONS = ("main", "v1.0", COMMIT)


def use_hub(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `huggingface_hub`, which reads its settings when it is imported, ask at `url` and nowhere else."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)


class Hub:
    """Serves `files[model][path]` at every one of REVISIONS; everything else is not found."""

    def __init__(self, files: Mapping[str, Mapping[str, bytes]]) -> None:
        self.requested: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self._answer(body=False)

            def do_GET(self) -> None:
                self._answer(body=True)

            def _answer(self, *, body: bool) -> None:
                path = self.path.split("?")[0]
                hub.requested.append(path)
                headers, content = _find(path, files)
                self.send_response(404 if content is None else 200)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content or b"")))
                self.end_headers()
                if body and content:
                    self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()


def _find(path: str, files: Mapping[str, Mapping[str, bytes]]) -> tuple[dict[str, str], bytes | None]:
    """Headers and content of one address."""
    for model, held in files.items():
        for revision in REVISIONS:
            if path in (f"/api/models/{model}/revision/{revision}", f"/api/models/{model}"):
                siblings = [{"rfilename": name} for name in held]
                return {"Content-Type": "application/json"}, json.dumps(
                    {"id": model, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}
                ).encode()
            if path == f"/api/models/{model}/tree/{revision}":
                tree = [{"type": "file", "path": name, "size": len(data), "oid": _tag(data)}
                        for name, data in held.items()]  # fmt: skip
                return {"Content-Type": "application/json"}, json.dumps(tree).encode()
            for name, data in held.items():
                if path == f"/{model}/resolve/{revision}/{name}":
                    return {"ETag": f'"{_tag(data)}"', "X-Repo-Commit": COMMIT}, data
    if any(path.startswith(f"/api/models/{model}/") for model in files):
        return {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "no such revision"}, None
    return {"X-Error-Code": "RepoNotFound", "X-Error-Message": "no such model"}, None


def _tag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
