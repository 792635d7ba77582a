"""How a command reaches an orchestrator that is not everybody's: TLS and an API key."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from tandem.cli.errors import CliError
from tandem.rpc.tls import ClientTls, TlsError

#: `--ca` for the authorities that everybody trusts.
PUBLIC = "public"

Ca = Annotated[
    str | None,
    typer.Option(
        envvar="TANDEM_CA", metavar=f"FILE|{PUBLIC}",
        help=f"Connect by TLS: PEM file with the authority of the orchestrator's certificate, or {PUBLIC} for those"
        " that everybody trusts. A plain connection if unset.",
    ),
]  # fmt: skip
Certificate = Annotated[
    Path | None,
    typer.Option(
        envvar="TANDEM_CERTIFICATE", metavar="FILE",
        help="PEM file with a certificate to show (mutual TLS); none is shown if unset.",
    ),
]  # fmt: skip
Key = Annotated[
    Path | None,
    typer.Option(envvar="TANDEM_KEY", metavar="FILE", help="PEM file with its private key; none if unset."),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        envvar="TANDEM_API_KEY", metavar="KEY", show_envvar=True,
        help="API key; better by the variable, which other users of the machine do not see. None is sent if unset.",
    ),
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Access:
    """ca: as `--ca`."""

    ca: str | None = None
    certificate: Path | None = None
    key: Path | None = None
    api_key: str | None = None

    @property
    def wants_tls(self) -> bool:
        return (self.ca, self.certificate, self.key) != (None, None, None)

    def tls(self) -> ClientTls | None:
        """None for a plain connection. Raises CliError for flags that do not go together, or files that cannot be
        used."""
        if not self.wants_tls:
            return None
        if self.ca is None:
            raise CliError(f"--ca is needed beside --certificate and --key: a PEM file, or {PUBLIC}")
        tls = ClientTls(None if self.ca == PUBLIC else Path(self.ca), self.certificate, self.key)
        try:
            tls.read()
        except TlsError as error:
            raise CliError(f"--{error.field}: {error}") from error
        return tls


#: To an orchestrator that serves plainly and asks for no key.
ANYBODYS = Access()
