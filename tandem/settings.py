"""How a service is configured: a class of fields, read from flags, `TANDEM_*` variables, or defaults."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from tandem import __version__
from tandem.rpc.channels import MAX_MESSAGE_BYTES, check_endpoint
from tandem.rpc.limits import MAX_STREAMS
from tandem.rpc.tls import ServerTls, TlsError, both

#: Exit code for a configuration that cannot be used, as argparse has it.
USAGE_ERROR = 2


def _split(value: object) -> object:
    """`a:1,b:2` from a variable, or such texts from flags, to one list."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | tuple):
        return value
    return [part.strip() for text in value for part in str(text).split(",") if part.strip()]


def _none(value: object) -> object:
    return None if value in ("", "none") else value


def _otlp(value: str) -> str:
    """HOST:PORT, with or without http:// or https:// before it."""
    check_endpoint(value.removeprefix("http://").removeprefix("https://").rstrip("/"))
    from tandem.telemetry.tracing import tracing_is_installed  # only where it is asked for

    if not tracing_is_installed():
        raise ValueError("needs packages that are not installed: pip install 'tandem-serving[tracing]'")
    return value


#: A port; `none` or empty where there is to be none.
OptionalPort = Annotated[Annotated[int, Field(ge=0, le=65535)] | None, BeforeValidator(_none)]

def _split_some(value: object) -> object:
    parts = _split(value)
    if parts == []:
        raise ValueError("names no endpoint; write HOST:PORT, as 127.0.0.1:7001")
    return parts


def _split_or_none(value: object) -> object:
    parts = _split(() if value is None else value)
    return () if parts == ["none"] else parts


#: HOST:PORT of one service.
Endpoint = Annotated[str, AfterValidator(check_endpoint)]

#: HOST:PORT of a service that can be done without; `none` or empty where there is none.
OptionalEndpoint = Annotated[Endpoint | None, BeforeValidator(_none)]

#: A file; `none` or empty where there is none.
OptionalFile = Annotated[Path | None, BeforeValidator(_none)]

#: One or more endpoints, comma-separated in a variable; a flag may also be given several times.
Endpoints = Annotated[tuple[Endpoint, ...], NoDecode, BeforeValidator(_split_some)]

#: The same of a service that can be done without; `none` or empty where there is none.
OptionalEndpoints = Annotated[tuple[Endpoint, ...], NoDecode, BeforeValidator(_split_or_none)]


class ServiceSettings(BaseSettings):
    """What every service has. A subclass sets `model_config = service_config("TANDEM_X_", "x_service")` and
    describes itself in its docstring, which `--help` shows.

    Kubernetes sets variables named after its services (`TANDEM_DRAFT_PORT=tcp://...`): manifests turn that
    off with `enableServiceLinks: false`.
    """

    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on; 0.0.0.0 for all.")
    port: int = Field(0, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="What to log.")
    grace_seconds: float = Field(
        10.0, ge=0, allow_inf_nan=False, description="Seconds that open requests may go on after SIGTERM."
    )
    ready_fd: int | None = Field(
        None, ge=0,
        description="File descriptor that gets the bound port and a line break once the service listens. If it is a"
        " socket, the service stops when the other end closes it.",
    )  # fmt: skip
    metrics_port: OptionalPort = Field(
        None,
        description="Port of GET /metrics for Prometheus, on the same address; 0 takes a free one, none serves none.",
    )
    log_format: Literal["console", "json"] = Field("console", description="Lines for people, or JSON for programs.")
    otlp_endpoint: Annotated[Annotated[str, AfterValidator(_otlp)] | None, BeforeValidator(_none)] = Field(
        None,
        description="Where OpenTelemetry traces are sent, over OTLP by gRPC: HOST:PORT, or https://HOST:PORT for TLS;"
        " none makes no traces.",
    )
    trace_share: float = Field(
        1.0, ge=0, le=1, description="Share of requests that are traced, of those whose callers have not decided it."
    )
    tls_certificate: OptionalFile = Field(
        None,
        description="PEM file with the server's certificate and those that lead to its authority; it and the other TLS"
        " files are read again when they change. Without one connections are plain.",
    )
    tls_key: OptionalFile = Field(None, description="PEM file with the private key of --tls-certificate.")
    tls_client_ca: OptionalFile = Field(
        None, description="PEM file with the authorities of callers, who must then show a certificate (mutual TLS)."
    )
    max_message_bytes: ByteSize = Field(
        ByteSize(MAX_MESSAGE_BYTES), ge=1024, le=2**31 - 1, description="Largest gRPC message that is taken, as 64MiB."
    )
    max_streams: int = Field(
        MAX_STREAMS, ge=1, description="Calls that may be open at once on a port; more are told to come back."
    )

    def server_tls(self) -> ServerTls | None:
        """None for plain connections. Raises TlsError where one of the files is missing beside the others."""
        if self.tls_certificate is None and self.tls_key is None and self.tls_client_ca is None:
            return None
        return ServerTls(*both(self.tls_certificate, self.tls_key), self.tls_client_ca)

    def server_options(self) -> dict[str, Any]:
        """What `Server` takes besides its address."""
        return {
            "grace_seconds": self.grace_seconds,
            "tls": self.server_tls(),
            "max_message_bytes": int(self.max_message_bytes),
            "max_streams": self.max_streams,
        }

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        """Before a model is loaded for nothing."""
        try:
            if tls := self.server_tls():
                tls.read()
        except TlsError as error:
            raise unusable_file(self, "tls", error) from error
        return self

    def announce(self, port: int) -> None:
        """Tells whoever started this process that it listens. Needs a running event loop."""
        if self.ready_fd is None:
            return
        try:
            os.write(self.ready_fd, f"{port}\n".encode())
        except BrokenPipeError:  # nobody waits for it any more
            os.kill(os.getpid(), signal.SIGTERM)
        if stat.S_ISSOCK(os.fstat(self.ready_fd).st_mode):
            asyncio.get_running_loop().add_reader(self.ready_fd, _stop_orphan, self.ready_fd)
        else:
            os.close(self.ready_fd)


def _stop_orphan(lifeline: int) -> None:
    """The process that started this one is gone, however it ended."""
    asyncio.get_running_loop().remove_reader(lifeline)
    os.kill(os.getpid(), signal.SIGTERM)


def service_config(env_prefix: str, module: str) -> SettingsConfigDict:
    """Configuration of the settings class of `python -m MODULE`; its variables start with `env_prefix`."""
    return SettingsConfigDict(
        env_prefix=env_prefix,
        cli_prog_name=f"python -m {module}",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        frozen=True,
    )


SettingsT = TypeVar("SettingsT", bound=ServiceSettings)


def load_settings(cls: type[SettingsT], argv: Sequence[str] | None = None) -> SettingsT:
    """Reads the settings of a service. argv: flags without the program's name; None takes sys.argv.

    Problems are printed to stderr, one line each with the flag, the variable and what is allowed, and the
    process exits with 2 (SystemExit). `--help` and `--version` print to stdout and exit with 0.
    """
    program = str(cls.model_config.get("cli_prog_name"))
    arguments = sys.argv[1:] if argv is None else list(argv)
    parser = _Parser(
        prog=program, description=cls.__doc__, formatter_class=_HelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"tandem {__version__}")
    try:
        source: CliSettingsSource[argparse.ArgumentParser] = CliSettingsSource(
            cls, root_parser=parser, add_argument_method=_argument_adder(cls)
        )
        source(args=arguments)
        return _with_source(cls, source)
    except ValidationError as error:
        problems = [_explain(cls, detail) for detail in error.errors()]
    except SettingsError as error:
        problems = [" ".join(str(error).split())]
    for problem in problems:
        print(f"{program}: {problem}", file=sys.stderr)
    raise SystemExit(USAGE_ERROR)


def _with_source(cls: type[SettingsT], source: PydanticBaseSettingsSource) -> SettingsT:
    return cls(_cli_settings_source=source)  # type: ignore[call-arg]  # pydantic-settings' keyword


def _explain(cls: type[ServiceSettings], detail: ErrorDetails) -> str:
    """`--port (TANDEM_DRAFT_PORT) is '70000': Input should be less than or equal to 65535`."""
    if not detail["loc"]:
        return str(detail["msg"]).removeprefix("Value error, ")
    name = str(detail["loc"][0])
    message = str(detail["msg"]).removeprefix("Value error, ")
    where = f"{_flag(name)} ({_variable(cls, name)})"
    if detail["type"] == "missing":
        return f"{where} is needed: {cls.model_fields[name].description}"
    return f"{where} is {detail['input']!r}: {message[0].lower()}{message[1:]}"


def unusable_file(settings: BaseSettings, prefix: str, error: TlsError) -> ValueError:
    """Names the flag and the variable. prefix: what the names of the settings have before the field's."""
    name = f"{prefix}_{error.field}"
    value = "" if error.path is None else f" is {str(error.path)!r}:"
    return ValueError(f"{_flag(name)} ({_variable(type(settings), name)}){value} {error.problem}")


def _flag(field: str) -> str:
    return "--" + field.replace("_", "-")


def _variable(cls: type[BaseSettings], field: str) -> str:
    return f"{cls.model_config.get('env_prefix', '')}{field}".upper()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(USAGE_ERROR, f"{self.prog}: {message}; --help lists the flags\n")


class _HelpFormatter(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=110)


def _argument_adder(cls: type[BaseSettings]) -> Any:
    """`add_argument` with a placeholder and the variable's name in the help instead of Python types."""

    def add(parser: argparse.ArgumentParser, *names: str, **options: Any) -> Any:
        name = names[0].lstrip("-").replace("-", "_")
        if (field := cls.model_fields.get(name)) is not None:
            if options.get("metavar") and not options["metavar"].startswith("{"):
                options["metavar"] = name.rsplit("_", 1)[-1].upper()
            help_text = f"{field.description or ''} [{_default(field)}{_variable(cls, name)}]"
            options["help"] = help_text.strip().replace("%", "%%")
        return parser.add_argument(*names, **options)

    return add


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required; "
    default = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(default, tuple | list):
        default = ",".join(map(str, default))
    return "" if default is None or default == "" else f"default {default}; "
