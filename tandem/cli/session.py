"""An orchestrator to talk to: the one that was named, or one started here for the time of the command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from tandem.cli.access import ANYBODYS, Access
from tandem.cli.client import Client
from tandem.cli.errors import CliError
from tandem.cli.services import Layout, LocalServices
from tandem.cli.signals import termination_unwinds
from tandem.rpc.bearer import bearer
from tandem.rpc.errors import TandemError
from tandem.rpc.handshake import check_pair


@contextmanager
def connected(
    endpoint: str | None, layout: Layout, console: Console, access: Access = ANYBODYS
) -> Iterator[Client]:
    """A client of `endpoint`, or of services started by `layout` where it is None. Raises CliError.

    console: where progress is shown, if it is a terminal. access: to `endpoint`.
    """
    try:
        bearer(access.api_key)
    except ValueError as error:
        raise CliError(f"--api-key: {error}") from error
    if endpoint is not None:
        if layout != Layout():
            raise CliError("flags of models are for services started here, but --endpoint names running ones")
        tls = access.tls()
        try:
            client = Client(endpoint, tls=tls, api_key=access.api_key)
        except ValueError as error:
            raise CliError(f"--endpoint: {error}") from error
        try:
            yield client
        finally:
            client.close()
        return
    if access.wants_tls:
        raise CliError("--ca, --certificate and --key are for a running orchestrator; name it with --endpoint")
    with termination_unwinds(), console.status("starting the services") as status:
        services = LocalServices(layout, show_logs=False, say=lambda text: status.update(text))
        with services:
            status.stop()
            client = Client(services.endpoint, api_key=access.api_key)
            try:
                yield client
            finally:
                client.close()


def check_models(endpoint: str) -> None:
    """Says at the start, not at the first request, that draft and target do not fit. Raises TandemError.

    An orchestrator that asks for a key does not tell; its requests will.
    """
    client = Client(endpoint)
    try:
        models = client.models()
    except TandemError as error:
        if error.reason == "UNAUTHENTICATED":
            return
        raise
    finally:
        client.close()
    if models.HasField("draft"):
        check_pair(draft=models.draft, target=models.target)
