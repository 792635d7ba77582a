"""/openapi.json: FastAPI's own, with the parameters of bodies that are read by hand (see `body.py`), and the header
that `timeouts.py` reads."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from orchestrator.gateway.parameters import Parameters
from orchestrator.gateway.timeouts import PARAMETER

_COMPONENTS = "#/components/schemas/"


def takes(kind: type[BaseModel]) -> dict[str, Any]:
    """For a route: its body is a `kind`, as JSON."""
    return body_of({"$ref": f"{_COMPONENTS}{kind.__name__}"})


def body_of(schema: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def describe(app: FastAPI, kinds: list[type[Parameters]]) -> None:
    """Adds what `takes` refers to."""
    described = app.openapi

    def openapi() -> dict[str, Any]:
        document = described()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for kind in kinds:
            schema = kind.model_json_schema(ref_template=f"{_COMPONENTS}{{model}}")
            schemas.update(schema.pop("$defs", {}))
            schemas[kind.__name__] = schema
        for path in document["paths"].values():
            if (post := path.get("post")) is not None and PARAMETER not in post.setdefault("parameters", []):
                post["parameters"].append(PARAMETER)
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's way of extending it
