"""How a service is configured: a class of fields, read from flags, `TANDEM_*` variables, or defaults."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import stat
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NoReturn, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
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
from tandem.rpc.channels import check_endpoint

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


#: HOST:PORT of one service.
Endpoint = Annotated[str, AfterValidator(check_endpoint)]

#: HOST:PORT of a service that can be done without; `none` or empty where there is none.
OptionalEndpoint = Annotated[Endpoint | None, BeforeValidator(_none)]

#: One or more endpoints, comma-separated in a variable; a flag may also be given several times.
Endpoints = Annotated[tuple[Endpoint, ...], NoDecode, BeforeValidator(_split)]


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
