"""The playground at /: static files, which speak to this service alone."""

from __future__ import annotations

import mimetypes
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from starlette.staticfiles import StaticFiles

FOLDER = Path(__file__).parents[1] / "playground"

# The system's table may say otherwise, and a browser runs no module of another type.
mimetypes.add_type("text/javascript", ".js")
mimetypes.add_type("image/svg+xml", ".svg")


def add_page(app: FastAPI, folder: Path = FOLDER) -> None:
    """Nothing where the folder is not there."""
    if not (folder / "index.html").is_file():
        return

    @app.get("/", include_in_schema=False)
    async def index() -> FileResponse:
        return FileResponse(folder / "index.html", headers={"cache-control": "no-cache"})

    app.mount("/playground", StaticFiles(directory=folder))
