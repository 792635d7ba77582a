"""What the command shows of a completion: the model's text as it is, sources told apart with and without colours."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tandem.cli.complete import gather
from tandem.cli.demo import run_demo
from tandem.cli.render import coloured, legend, log_probability_table, summary, to_json
from tandem.v1 import completion_pb2

SOURCES = [
    completion_pb2.TOKEN_SOURCE_TARGET,
    completion_pb2.TOKEN_SOURCE_DRAFT_MATCHED,
    completion_pb2.TOKEN_SOURCE_DRAFT_ACCEPTED,
    completion_pb2.TOKEN_SOURCE_CORRECTION,
    completion_pb2.TOKEN_SOURCE_BONUS,
]
#: What terminal libraries like to interpret, expand, drop or break.
TRICKY = [
    "[bold]not bold[/bold] [/] [/x] [red]",
    ":smile: \\[escaped] [link=x]",
    "\tall:\n\tcc -o a a.c\n",
    "carriage\rreturn, bell \a, backspace \b, \x0b and \x0c",
    "  two spaces, trailing   \n\n\n",
    "a word of " + "m" * 200 + " letters, and " + "many words " * 30,
    "字" * 100 + " 😀 é e\u0301 \u200b|",
]


def console(**options: object) -> Console:
    return Console(file=io.StringIO(), width=80, highlight=False, **{"color_system": None, **options})


def shown(screen: Console) -> str:
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue()


def tokens(text: str, source: int = completion_pb2.TOKEN_SOURCE_TARGET) -> list[completion_pb2.TokenAccount]:
    return [completion_pb2.TokenAccount(text=text[at : at + 3], source=source) for at in range(0, len(text), 3)]


def response(text: str) -> completion_pb2.CompleteResponse:
    return completion_pb2.CompleteResponse(text=text, tokens=tokens(text), finish=completion_pb2.Finish())


@pytest.mark.parametrize("text", TRICKY)
def test_piped_text_is_what_the_model_wrote_and_one_line_break(text: str) -> None:
    screen = console()
    assert gather([response(text)], screen, audit=False).text == text
    assert shown(screen) == text + "\n"


@pytest.mark.parametrize("text", TRICKY)
def test_audited_text_without_its_marks_is_what_the_model_wrote(text: str) -> None:
    screen = console()
    gather([response(text)], screen, audit=True)
    assert shown(screen).replace("{T}", "") == text + "\n"


def test_audited_text_has_what_no_token_completed_and_nothing_twice() -> None:
    cut = [response("ab"), completion_pb2.CompleteResponse(text="\ufffd", finish=completion_pb2.Finish())]
    stopped = [completion_pb2.CompleteResponse(text="a", tokens=tokens("abc"), finish=completion_pb2.Finish())]
    for responses, expected in ((cut, "ab{T}\ufffd\n"), (stopped, "abc{T}\n")):
        screen = console()
        gather(responses, screen, audit=True)
        assert shown(screen) == expected


@pytest.mark.parametrize("text", [text for text in TRICKY if "\a" not in text])
@pytest.mark.parametrize("audit", [False, True])
def test_a_terminal_gets_the_text_unbroken_too(text: str, audit: bool) -> None:
    screen = console(force_terminal=True, color_system="standard", no_color=False)
    gather([response(text)], screen, audit=audit)
    assert shown(screen).replace("\x1b[1m", "").replace("\x1b[0m", "") == text + "\n"


@pytest.mark.parametrize("audit", [False, True])
def test_a_model_cannot_command_the_terminal(audit: bool) -> None:
    screen = console(force_terminal=True)
    gather([response("\x1b[2J\x1b]0;title\a \x9b5m\r")], screen, audit=audit)
    text = shown(screen).replace("{T}", "")
    assert text == "^[[2J^[]0;title^G \\x9b5m^M\n"


def test_sources_are_told_apart_by_colour_where_there_is_colour() -> None:
    looks = set()
    for source in SOURCES:
        screen = console(force_terminal=True, color_system="standard", no_color=False)
        screen.print(coloured(screen, completion_pb2.TokenAccount(text="x", source=source)), end="")
        looks.add(shown(screen))
    assert len(looks) == len(SOURCES) and all("x" in look and "{" not in look for look in looks)


@pytest.mark.parametrize(
    "options",
    [{}, {"force_terminal": True}, {"force_terminal": True, "color_system": "standard", "no_color": True}],
    ids=["piped", "dumb", "NO_COLOR"],
)
def test_sources_are_told_apart_by_marks_that_the_legend_explains(options: dict[str, object]) -> None:
    looks = []
    for source in SOURCES:
        screen = console(**options)
        screen.print(coloured(screen, completion_pb2.TokenAccount(text="x", source=source)), end="")
        looks.append(shown(screen))
    explained = legend(console(**options)).plain
    assert len(set(looks)) == len(SOURCES)
    assert all(look.removeprefix("x") in explained and look != "x" for look in looks)


def test_a_mark_stays_on_the_line_of_its_token() -> None:
    screen = console()
    screen.print(coloured(screen, completion_pb2.TokenAccount(text=".\n\n", source=SOURCES[0])), end="")
    assert shown(screen) == ".{T}\n\n"


def test_a_source_of_a_newer_orchestrator_is_shown() -> None:
    screen = console()
    token = completion_pb2.TokenAccount(text="x", source=99)  # type: ignore[arg-type]
    screen.print(coloured(screen, token), end="")
    assert shown(screen) == "x{?}"


@pytest.mark.parametrize("options", [{}, {"force_terminal": True, "color_system": "standard", "no_color": False}])
def test_the_legend_is_one_line_of_80_columns(options: dict[str, object]) -> None:
    screen = console(**options)
    screen.print(legend(screen))
    assert shown(screen).count("\n") == 1


def finish() -> completion_pb2.Finish:
    made = completion_pb2.Finish(reason=completion_pb2.FINISH_REASON_LENGTH, seed=2**63 - 1)
    made.usage.prompt_tokens, made.usage.completion_tokens = 8000, 1024
    report = made.speculation
    report.stop_rule, report.accept_rule, report.lossy = "confidence", "adasd-kde", True
    report.verify_steps, report.drafted_tokens, report.accepted_tokens = 600, 2400, 424
    report.draft_acceptance_rate, report.mean_acceptance_length, report.lossy_tokens = 0.1767, 1.7067, 12
    report.time.total_microseconds, report.time.first_token_microseconds = 60_000_000, 1_000_000
    report.time.draft_compute_microseconds = report.time.target_compute_microseconds = 600 * 123_400
    report.time.round_overhead_median_microseconds = 12_300
    report.thresholds["distance"] = 0.7
    return made


def test_the_summary_fits_80_columns_line_by_line() -> None:
    screen = console()
    screen.print(summary(finish()))
    lines = [line.rstrip() for line in shown(screen).splitlines()]
    names = [line.split()[0] for line in lines]
    assert names == ["policy", "tokens", "drafted", "per", "time", "thresholds"], lines
    assert "424 accepted (18%), 12 by distance alone" in lines[2]


def test_json_of_numbers_that_are_not_finite_is_null() -> None:
    made = finish()
    made.speculation.thresholds["distance"] = float("nan")
    made.speculation.lossy_charge = float("inf")
    speculation = to_json("", [], None, made)["speculation"]
    assert speculation["thresholds"] == {"distance": None} and speculation["lossy_charge"] is None


def test_json_keeps_64_bit_numbers_as_numbers_and_has_tokens_only_where_asked() -> None:
    plain, audited = to_json("a", [1], None, finish()), to_json("a", [1], tokens("a"), finish())
    assert (plain["seed"], plain["finish_reason"]) == (2**63 - 1, "length")
    assert "tokens" not in plain and [token["source"] for token in audited["tokens"]] == ["target"]


def test_choices_that_come_side_by_side_are_read_one_after_the_other() -> None:
    def piece(choice: int, text: str, *, ends: bool = False) -> completion_pb2.CompleteResponse:
        made = completion_pb2.CompleteResponse(choice=choice, text=text, token_ids=[1])
        if ends:
            made.finish.seed = choice
        return made

    together = [piece(2, "g"), piece(0, "a"), piece(1, "d"), piece(2, "h", ends=True), piece(0, "b", ends=True),
                piece(1, "e"), piece(1, "f", ends=True)]  # fmt: skip
    screen = console()
    whole = gather(together, screen, audit=False)
    assert shown(screen) == "ab\n--- 2 ---\ndef\n--- 3 ---\ngh\n"
    assert [each.text for each in (whole, *whole.more)] == ["ab", "def", "gh"]
    assert [each.finish.seed for each in (whole, *whole.more)] == [0, 1, 2]


def test_log_probabilities_show_no_token_that_a_terminal_would_obey() -> None:
    token = completion_pb2.TokenLogProbability(token_id=7, token=b"\x1b[2J", log_probability=-0.25)
    token.top.add(token_id=8, token=b"[bold]", log_probability=-0.5)
    token.top.add(token_id=9, log_probability=-1.5)
    screen = console()
    screen.print(log_probability_table([token]))
    assert shown(screen).split() == [r"'\x1b[2J'", "-0.250", "'[bold]'", "-0.500,", "<9>", "-1.500"]


class DemoClient:
    """Answers as an orchestrator whose models have names that look like markup."""

    def models(self) -> completion_pb2.GetModelsResponse:
        return completion_pb2.GetModelsResponse(draft={"model_id": "[red]d"}, target={"model_id": "[/]t"})

    def complete(self, request: completion_pb2.CompleteRequest) -> list[completion_pb2.CompleteResponse]:
        return [completion_pb2.CompleteResponse(text="so", tokens=tokens("so"), finish=finish())]


def test_the_demo_shows_names_and_prompt_as_they_are() -> None:
    screen = console()
    run_demo(DemoClient(), screen, prompt="[bold]why[/] [/x]", max_tokens=8)  # type: ignore[arg-type]
    text = shown(screen)
    assert "draft [red]d proposes, target [/]t verifies" in text and "[bold]why[/] [/x]" in text
    assert "so{T}" in text and "the same" in text
    assert all(len(line) <= 80 for line in text.splitlines())
