"""The playground at /: static files, which speak to this service alone."""

from __future__ import annotations

import mimetypes
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

FOLDER = Path(__file__).parents[1] / "playground"

# The system's table may say otherwise, and a browser runs no module of another type.
mimetypes.add_type("text/javascript", ".js")
mimetypes.add_type("image/svg+xml", ".svg")

# The page's own policy stands in it; that it is in nobody's frame can be said here only.
_HEADERS = {"cache-control": "no-cache", "content-security-policy": "frame-ancestors 'none'"}


def add_page(app: FastAPI, folder: Path = FOLDER) -> None:
    """Nothing where the folder is not there."""
    if not (folder / "index.html").is_file():
        return

    @app.get("/", include_in_schema=False)
    async def index() -> FileResponse:
        return FileResponse(folder / "index.html", headers=_HEADERS)

    app.mount("/playground", _Fresh(directory=folder))


class _Fresh(StaticFiles):
    """Asked for anew with every visit, so that the page and its modules are always of one version."""

    def file_response(self, *arguments: Any, **options: Any) -> Response:
        response = super().file_response(*arguments, **options)
        response.headers.update(_HEADERS)
        return response
