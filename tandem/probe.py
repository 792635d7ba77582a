"""`python -m tandem.probe draft|target|orchestrator`: whether the service on this machine serves.

For HEALTHCHECK and exec probes: it reads the service's own variables and takes its flags, so that it asks where the
service listens, by TLS where that is on. Exit code 0 where it is SERVING, else 1 and a line that says why.
"""

from __future__ import annotations

import ipaddress
import ssl
import sys
from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from tandem.rpc.tls import ClientTls, TlsError, both
from tandem.settings import OptionalFile, ServiceSettings, load_settings, service_config

if TYPE_CHECKING:
    import grpc

#: Ports where they are not set, as the services' own settings have them.
PORTS = {"draft": 7001, "target": 7002, "orchestrator": 7000}


class ProbeSettings(ServiceSettings):
    """Asks the health of a service on this machine."""

    probe_service: str = Field("", description="Name in gRPC's health protocol; empty for the server as a whole.")
    probe_timeout_seconds: float = Field(3.0, gt=0, allow_inf_nan=False, description="Most time for the answer.")
    probe_certificate: OptionalFile = Field(
        None, description="PEM file with the certificate to show under mutual TLS; --tls-certificate if unset."
    )
    probe_key: OptionalFile = Field(None, description="PEM file with its private key; --tls-key if unset.")

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        """In place of the service's own check: it may go on with files that were there before."""
        return self


def settings_class(service: str) -> type[ProbeSettings]:
    """Reads the variables of `service`."""

    class Settings(ProbeSettings):
        model_config = service_config(f"TANDEM_{service.upper()}_", f"tandem.probe {service}")
        port: int = Field(PORTS[service], ge=1, le=65535, description="Port that the service listens on.")

    Settings.__doc__ = ProbeSettings.__doc__
    return Settings


def ask(settings: ProbeSettings) -> str:
    """`SERVING`, another status, or why there is none."""
    import grpc  # after tandem.rpc, which tells it what to log
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    host = _reached(settings.host)
    endpoint = f"[{host}]:{settings.port}" if ":" in host else f"{host}:{settings.port}"
    try:
        with _channel(settings, host, endpoint) as channel:
            request = health_pb2.HealthCheckRequest(service=settings.probe_service)
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=settings.probe_timeout_seconds)
    except grpc.RpcError as error:
        return f"{error.code().name} ({error.details()})"
    except (TlsError, OSError) as error:
        return str(error)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def _reached(host: str) -> str:
    """Where a service that listens on `host` is reached from its own machine."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    loopback = {4: "127.0.0.1", 6: "::1"}
    return loopback[address.version] if address.is_unspecified else host


def _channel(settings: ProbeSettings, host: str, endpoint: str) -> grpc.Channel:
    import grpc

    plain = (("grpc.enable_http_proxy", 0),)
    if (tls := settings.server_tls()) is None:
        return grpc.insecure_channel(endpoint, options=plain)
    from tandem.rpc.pem import names

    try:
        trusted = tls.read().certificate
    except TlsError:
        # New files that are no good: the service goes on with the old ones, and is not to be taken for dead for that.
        shown = ssl.get_server_certificate((host, settings.port), timeout=settings.probe_timeout_seconds)
        trusted = shown.encode()
    pair = None
    if tls.client_ca is not None:
        certificate = settings.probe_certificate or tls.certificate
        pair = ClientTls(None, *both(certificate, settings.probe_key or tls.key)).read()
    credentials = grpc.ssl_channel_credentials(trusted, pair and pair.key, pair and pair.certificate)
    # On this machine it goes by an address that its certificate need not hold; so it is asked by a name that it does.
    named = (("grpc.ssl_target_name_override", (names(trusted) or [host])[0]),)
    return grpc.secure_channel(endpoint, credentials, options=(*plain, *named))


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in PORTS:
        print(f"tandem.probe: name the service: {', '.join(PORTS)}", file=sys.stderr)
        raise SystemExit(1)
    service, *flags = sys.argv[1:]
    try:
        settings = load_settings(settings_class(service), flags)
    except SystemExit as ended:  # 2 for flags that are wrong, which Docker reserves
        raise SystemExit(1 if ended.code else 0) from None
    status = ask(settings)
    if status != "SERVING":
        print(f"tandem.probe: the {service} on port {settings.port}: {' '.join(status.split())}", file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
