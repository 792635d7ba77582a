"""What the draft service can be told to draft with, and what it refuses before anything is loaded."""

from __future__ import annotations

from dataclasses import replace

import pytest

from draft_service.settings import DraftSettings
from tandem.cli.errors import CliError
from tandem.cli.services import Layout, LocalServices, _draft
from tandem.drafters import DRAFTERS, drafter_parts
from tandem.settings import load_settings


def test_parts_are_asked_in_the_order_of_their_names() -> None:
    assert drafter_parts("stand+model", "a/b") == ("stand", "model")
    assert drafter_parts("model+suffix+prompt-lookup", "a/b") == ("model", "suffix", "prompt-lookup")
    assert drafter_parts("prompt-lookup", "prompt-lookup") == ("prompt-lookup",)
    assert load_settings(DraftSettings, ["--drafter", "suffix"]).parts == ("suffix",)
    assert load_settings(DraftSettings, []).parts == ("model",)
    assert load_settings(DraftSettings, ["--model", "prompt-lookup"]).parts == ("prompt-lookup",)
    assert load_settings(DraftSettings, ["--drafter", "suffix+early-exit", "--model", "a/b"]).parts[1] == "early-exit"
    assert set(DRAFTERS) == {"model", "prompt-lookup", "suffix", "stand", "early-exit"}


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--drafter", "guess"], "unknown drafter 'guess'; there are model, prompt-lookup, suffix, stand, early-exit"),
        (["--drafter", "stand+"], "unknown drafter ''"),
        (["--drafter", "stand+stand"], "stand is named twice"),
        (["--drafter", "stand+model", "--model", "prompt-lookup"], "stand+model does not go with prompt-lookup"),
        (["--drafter", "stand+model", "--look-ahead-rows", "8"], "--look-ahead-rows: only --drafter model looks ahead"),
        (["--drafter", "suffix", "--share-ngrams"], "--share-ngrams is for --drafter stand"),
        (["--drafter", "model+early-exit", "--model", "a/b"], "only one of model and early-exit may be named"),
        (["--drafter", "early-exit"], "--model: --drafter early-exit needs the target's name"),
        (["--drafter", "early-exit", "--model", "a/b", "--for-target", "c/d"], "--for-target: --drafter early-exit"),
    ],
)
def test_what_cannot_be_is_refused_by_its_flag(
    flags: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exited:
        load_settings(DraftSettings, flags)
    assert exited.value.code == 2 and told in capsys.readouterr().err


def test_only_a_model_that_drafts_alone_looks_ahead() -> None:
    rows = [
        load_settings(DraftSettings, ["--drafter", name]).engine_options()["limits"].ahead_rows
        for name in ("model", "stand+model")
    ]
    assert rows == [None, 0]
    assert load_settings(DraftSettings, ["--drafter", "stand+model", "--look-ahead-rows", "0"]).look_ahead_rows == 0


def test_early_exit_is_given_the_targets_weights() -> None:
    layout = Layout(target_model="a/b", target_revision="1", draft_model="c/d", draft_revision="2")
    named = ["--model", "c/d", "--revision", "2", "--for-target", "a/b", "--for-target-revision", "1"]
    assert _draft(replace(layout, drafter="suffix+model")) == named
    assert _draft(replace(layout, drafter="suffix+early-exit")) == ["--model", "a/b", "--revision", "1"]


@pytest.mark.parametrize(
    ("layout", "told"),
    [
        (Layout(drafter="guess"), "--drafter: unknown drafter 'guess'"),
        (Layout(drafter="suffix", draft_model=None), "--drafter: no draft service is started"),
        (Layout(drafter="suffix", draft_model="prompt-lookup"), "--drafter: suffix does not go with prompt-lookup"),
    ],
)
def test_the_command_refuses_it_before_it_starts_anything(layout: Layout, told: str) -> None:
    with pytest.raises(CliError, match=told), LocalServices(layout, show_logs=False):
        pass
