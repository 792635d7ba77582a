"""How the orchestrator is configured."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, ByteSize, Field, model_validator

from tandem.keys import KeyFileError, read_keys
from tandem.rpc.tls import ClientTls, TlsError
from tandem.settings import (
    Endpoints,
    OptionalEndpoints,
    OptionalFile,
    OptionalPort,
    ServiceSettings,
    service_config,
    unusable_file,
)

#: Most bytes of a body of HTTP, if it is not set.
MAX_BODY_BYTES = 4 * 1024 * 1024


def _key_file(path: Path | None) -> Path | None:
    """Before anything is served without the keys that were meant."""
    try:
        if path is not None:
            read_keys(path)
    except KeyFileError as error:
        raise ValueError(error.problem) from error
    return path


class OrchestratorSettings(ServiceSettings):
    """The orchestrator: serves completions; decides what is drafted and accepted; holds no weights."""

    model_config = service_config("TANDEM_ORCHESTRATOR_", "orchestrator")

    port: int = Field(7000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    http_port: OptionalPort = Field(
        7080, description="Port of the HTTP face, on the same address; 0 takes a free one, none serves no HTTP."
    )
    target: Endpoints = Field(
        ("127.0.0.1:7002",),
        description="HOST:PORT of the target service, or several with commas between; a HOST with several addresses is"
        " as many replicas.",
    )
    draft: OptionalEndpoints = Field(
        ("127.0.0.1:7001",), description="The same of the draft service; none to serve by the target alone."
    )
    middle: OptionalEndpoints = Field(
        (),
        description="The same of a target service whose model stands between the draft's and the target's: it verifies"
        " the draft and is verified by the target, where that is faster; none for no such model.",
    )
    resolve_seconds: float = Field(
        5.0, gt=0, allow_inf_nan=False,
        description="Seconds after which the names in --target and --draft are looked up again.",
    )  # fmt: skip
    tokenizer: str = Field(
        "embedded:smollm2",
        min_length=1,
        description="Model whose tokenizer and chat template are used: the target's name, id or folder.",
    )
    tokenizer_revision: str | None = Field(None, description="Commit, tag or branch of a Hugging Face id.")
    draft_timeout_seconds: float = Field(
        10.0, gt=0, allow_inf_nan=False, description="A draft that takes longer for one block is given up."
    )
    draft_patience_seconds: float = Field(
        0.05, ge=0, allow_inf_nan=False,
        description="What a block may take longer than the rounds before it; then the target goes on alone until it is"
        " there.",
    )  # fmt: skip
    connect_timeout_seconds: float = Field(
        5.0, gt=0, allow_inf_nan=False, description="A service that cannot be reached for longer is not there."
    )
    target_patience_seconds: float = Field(
        30.0, gt=0, allow_inf_nan=False,
        description="A completion that has begun and has lost its target waits so long for another, or for the same.",
    )  # fmt: skip
    target_timeout_seconds: float = Field(
        60.0, gt=0, allow_inf_nan=False,
        description="A target that takes longer for an answer is given up; what takes in a prompt has no bound.",
    )  # fmt: skip
    stall_seconds: float = Field(
        5.0, gt=0, allow_inf_nan=False,
        description="A service that answers no question and says nothing on any stream for longer has all of its"
        " streams given up.",
    )  # fmt: skip
    exact_entries: int = Field(
        1024, ge=8, le=65536,
        description="Most entries of q per candidate under the ratio and block rules; q is cut to them.",
    )
    bracket_entries: int = Field(
        256, ge=8, le=65536,
        description="Most entries of q per candidate where a distance is only bracketed (temperature 0).",
    )
    look_ahead_branches: int = Field(
        16, ge=0, le=64,
        description="Outcomes of a block for which a draft that can may draft the next one meanwhile; 0 for none.",
    )  # fmt: skip
    look_ahead_bytes: ByteSize = Field(
        ByteSize(1024 * 1024), ge=1024, le=16 * 2**20,
        description="Most bytes of what a draft sends ahead for one block, as 1MiB.",
    )  # fmt: skip
    max_completions: int = Field(
        256, ge=1, description="Completions that may be under way; more wait until one has ended."
    )
    max_waiting: int = Field(
        256, ge=0,
        description="Requests that may wait for that, or for a target that has room; more are told to come back.",
    )  # fmt: skip
    log_prompts: bool = Field(False, description="Log the text of prompts, too.")

    upstream_ca: OptionalFile = Field(
        None,
        description="PEM file with the authorities of the target's and the draft's certificates, which must hold the"
        " HOST of --target or --draft. Without it both are called over plain connections.",
    )
    upstream_certificate: OptionalFile = Field(
        None, description="PEM file with the certificate to show the target and the draft (mutual TLS)."
    )
    upstream_key: OptionalFile = Field(None, description="PEM file with the private key of --upstream-certificate.")
    api_keys: Annotated[OptionalFile, AfterValidator(_key_file)] = Field(
        None,
        description="File of API keys and their limits, made by `tandem keys new`; read again when it changes. Without"
        " one nobody is asked for a key.",
    )
    max_prompt_tokens: int | None = Field(
        None, ge=1, description="Most tokens of a prompt; what the target's context holds if unset."
    )
    max_body_bytes: ByteSize = Field(
        ByteSize(MAX_BODY_BYTES), ge=1024, description="Largest body of an HTTP request that is taken, as 4MiB."
    )

    def upstream_tls(self) -> ClientTls | None:
        """None for plain connections. Raises TlsError."""
        if self.upstream_ca is None:
            if self.upstream_certificate is not None or self.upstream_key is not None:
                raise TlsError("ca", None, "is needed: the authority to trust, beside what to show")
            return None
        return ClientTls(self.upstream_ca, self.upstream_certificate, self.upstream_key)

    @model_validator(mode="after")
    def _check_upstream_tls(self) -> Self:
        try:
            if tls := self.upstream_tls():
                tls.read()
        except TlsError as error:
            raise unusable_file(self, "upstream", error) from error
        return self

    def announce(self, port: int, http_port: int | None = None) -> None:
        """As every service does. A socket gets the HTTP port too, on a line of its own."""
        descriptor = self.ready_fd
        tells_both = descriptor is not None and stat.S_ISSOCK(os.fstat(descriptor).st_mode)
        super().announce(port)
        if descriptor is not None and tells_both and http_port is not None:
            with suppress(BrokenPipeError):  # whoever waited is gone; the service is told to end already
                os.write(descriptor, f"{http_port}\n".encode())
