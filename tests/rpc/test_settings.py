from __future__ import annotations

from typing import Literal

import pytest
from pydantic import Field, ValidationError

from tandem.settings import (
    Endpoint,
    Endpoints,
    OptionalEndpoint,
    OptionalEndpoints,
    ServiceSettings,
    load_settings,
    service_config,
)


class Settings(ServiceSettings):
    """Serves examples."""

    model_config = service_config("TANDEM_EXAMPLE_", "example_service")

    model: str = Field(min_length=1, description="Model to serve; 100% of it.")
    dtype: Literal["bfloat16", "float32"] = Field("bfloat16", description="Type of the weights.")
    revision: str | None = Field(None, description="Commit, tag or branch.")
    peer: Endpoint = Field("127.0.0.1:7002", description="The other one.")
    friend: OptionalEndpoint = Field("127.0.0.1:7003", description="Or none.")
    targets: Endpoints = Field(("127.0.0.1:7001",), description="Where targets listen.")
    friends: OptionalEndpoints = Field(("127.0.0.1:7004",), description="Several, or none.")


VARIABLE = "TANDEM_EXAMPLE_"


def problems(argv: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    with pytest.raises(SystemExit) as exited:
        load_settings(Settings, argv)
    captured = capsys.readouterr()
    assert exited.value.code == 2
    assert captured.out == ""
    return captured.err.splitlines()


def test_defaults_stand_where_nothing_is_given() -> None:
    settings = load_settings(Settings, ["--model", "m"])
    assert (settings.host, settings.port, settings.log_level) == ("127.0.0.1", 0, "info")
    assert settings.grace_seconds == 10
    assert (settings.revision, settings.targets) == (None, ("127.0.0.1:7001",))


def test_flags_win_over_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE + "PORT", "7001")
    monkeypatch.setenv(VARIABLE + "MODEL", "from-variable")
    settings = load_settings(Settings, ["--port", "7002", "--grace-seconds=0.5"])
    assert (settings.port, settings.model, settings.grace_seconds) == (7002, "from-variable", 0.5)


@pytest.mark.parametrize("argv", [["--targets", "a:1,b:2"], ["--targets", "a:1", "--targets", "b:2"]])
def test_several_endpoints_by_flag(argv: list[str]) -> None:
    assert load_settings(Settings, ["--model", "m", *argv]).targets == ("a:1", "b:2")


def test_several_endpoints_by_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE + "TARGETS", "a:1, [::1]:2")
    assert load_settings(Settings, ["--model", "m"]).targets == ("a:1", "[::1]:2")


@pytest.mark.parametrize("value", ["none", "", "a:1, [::1]:2"])
def test_several_endpoints_can_be_taken_away(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = ("a:1", "[::1]:2") if "a" in value else ()
    assert load_settings(Settings, ["--model", "m"]).friends == ("127.0.0.1:7004",)
    assert load_settings(Settings, ["--model", "m", "--friends", value]).friends == expected
    monkeypatch.setenv(VARIABLE + "FRIENDS", value)
    assert load_settings(Settings, ["--model", "m"]).friends == expected
    assert Settings(model="m", friends=None).friends == ()


@pytest.mark.parametrize("value", ["none", ""])
def test_an_endpoint_can_be_taken_away(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings(Settings, ["--model", "m", "--friend", value]).friend is None
    monkeypatch.setenv(VARIABLE + "FRIEND", value)
    assert load_settings(Settings, ["--model", "m"]).friend is None


def test_an_empty_variable_is_refused_and_not_taken_for_the_default(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(VARIABLE + "PORT", "")
    (line,) = problems(["--model", "m"], capsys)
    assert "--port (TANDEM_EXAMPLE_PORT) is ''" in line


def test_every_problem_is_one_line_with_flag_variable_and_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(VARIABLE + "DTYPE", "int3")
    lines = problems(["--port", "65536", "--targets", "here", "--grace-seconds", "nan"], capsys)
    assert len(lines) == 5
    assert all(line.startswith("python -m example_service: --") for line in lines)
    assert any("--port (TANDEM_EXAMPLE_PORT) is '65536'" in line and "65535" in line for line in lines)
    assert any("--dtype (TANDEM_EXAMPLE_DTYPE) is 'int3'" in line and "'float32'" in line for line in lines)
    assert any("--targets (TANDEM_EXAMPLE_TARGETS)" in line and "HOST:PORT" in line for line in lines)
    assert any("--model (TANDEM_EXAMPLE_MODEL) is needed" in line for line in lines)
    assert any("--grace-seconds" in line for line in lines)


@pytest.mark.parametrize("argv", [["--prot", "1"], ["--por", "1"], ["stray"], ["--port"]])
def test_unknown_flags_are_refused_in_one_line(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = problems(["--model", "m", *argv], capsys)
    assert line.startswith("python -m example_service: ") and "--help" in line


def test_help_names_every_flag_variable_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        load_settings(Settings, ["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert exited.value.code == 0 and "Serves examples." in text
    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')} " in text
        assert f"TANDEM_EXAMPLE_{name.upper()}]" in text
        assert field.description in text
    assert "default 127.0.0.1:7001" in text and "tuple" not in text and "PydanticUndefined" not in text


def test_settings_do_not_change_after_the_start() -> None:
    settings = load_settings(Settings, ["--model", "m"])
    with pytest.raises(ValidationError):
        settings.port = 1
