"""How the orchestrator is configured."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import Annotated

from pydantic import BeforeValidator, Field

from tandem.settings import Endpoint, OptionalEndpoint, ServiceSettings, service_config

#: A port; `none` or empty where there is to be none.
OptionalPort = Annotated[
    Annotated[int, Field(ge=0, le=65535)] | None,
    BeforeValidator(lambda value: None if value in ("", "none") else value),
]


class OrchestratorSettings(ServiceSettings):
    """The orchestrator: serves completions; decides what is drafted and accepted; holds no weights."""

    model_config = service_config("TANDEM_ORCHESTRATOR_", "orchestrator")

    port: int = Field(7000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    http_port: OptionalPort = Field(
        7080, description="Port of the HTTP face, on the same address; 0 takes a free one, none serves no HTTP."
    )
    target: Endpoint = Field("127.0.0.1:7002", description="HOST:PORT of the target service.")
    draft: OptionalEndpoint = Field(
        "127.0.0.1:7001", description="HOST:PORT of the draft service; none to serve by the target alone."
    )
    tokenizer: str = Field(
        "embedded:smollm2",
        min_length=1,
        description="Model whose tokenizer and chat template are used: the target's name, id or folder.",
    )
    tokenizer_revision: str | None = Field(None, description="Commit, tag or branch of a Hugging Face id.")
    draft_timeout_seconds: float = Field(
        10.0, gt=0, allow_inf_nan=False, description="A draft that takes longer for one block is given up."
    )
    connect_timeout_seconds: float = Field(
        5.0, gt=0, allow_inf_nan=False, description="A service that cannot be reached for longer is not there."
    )
    exact_entries: int = Field(
        1024, ge=8, le=65536,
        description="Most entries of q per candidate under the ratio and block rules; q is cut to them.",
    )
    bracket_entries: int = Field(
        256, ge=8, le=65536,
        description="Most entries of q per candidate where a distance is only bracketed (temperature 0).",
    )

    def announce(self, port: int, http_port: int | None = None) -> None:
        """As every service does. A socket gets the HTTP port too, on a line of its own."""
        descriptor = self.ready_fd
        tells_both = descriptor is not None and stat.S_ISSOCK(os.fstat(descriptor).st_mode)
        super().announce(port)
        if descriptor is not None and tells_both and http_port is not None:
            with suppress(BrokenPipeError):  # whoever waited is gone; the service is told to end already
                os.write(descriptor, f"{http_port}\n".encode())
