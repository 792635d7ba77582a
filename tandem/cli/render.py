"""What the command shows: coloured tokens with their legend, the summary of a completion, JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from google.protobuf.message import Message
from rich.console import Console
from rich.segment import Segment, Segments
from rich.table import Table
from rich.text import Text

from tandem.v1 import completion_pb2

# Style, mark where there are no colours, and meaning of each source.
_SOURCES = {
    completion_pb2.TOKEN_SOURCE_TARGET: ("bold", "T", "target"),
    completion_pb2.TOKEN_SOURCE_DRAFT_MATCHED: ("green", "m", "draft, exact"),
    completion_pb2.TOKEN_SOURCE_DRAFT_ACCEPTED: ("yellow underline", "d", "draft, by distance"),
    completion_pb2.TOKEN_SOURCE_CORRECTION: ("red", "c", "correction"),
    completion_pb2.TOKEN_SOURCE_BONUS: ("cyan", "b", "bonus"),
}
_UNKNOWN = ("", "?", "")  # of an orchestrator newer than this command


# What a terminal would obey, as `cat -v` shows it; line breaks and tabs are text.
_CONTROLS = {code: f"^{chr(code ^ 64)}" for code in (*range(32), 127) if chr(code) not in "\n\t"}
_CONTROLS |= {code: f"\\x{code:02x}" for code in range(128, 160)}


def legend(console: Console) -> Text:
    """What the colours (or, without colours, the marks in braces) mean."""
    entries = (
        Text(meaning if _has_colours(console) else f"{{{mark}}} {meaning}", style=style)
        for style, mark, meaning in _SOURCES.values()
    )
    return Text("  ").join(entries)


def plain(console: Console, text: str, style: str = "") -> Segments:
    """The model's text as it is: no markup, no tabs to spaces, nothing dropped. Only on a terminal, control
    characters are made visible: a model must not command it."""
    shown = text.translate(_CONTROLS) if console.is_terminal else text
    return Segments([Segment(shown, console.get_style(style) if style else None)])


def coloured(console: Console, token: completion_pb2.TokenAccount) -> Segments:
    """One token in the colour of its source; marked with a letter where the console has no colours."""
    style, mark, _ = _SOURCES.get(token.source, _UNKNOWN)
    if _has_colours(console) or not token.text:
        return plain(console, token.text, style)
    line = token.text.rstrip("\n")  # the mark stays on the line of its token
    return plain(console, f"{line}{{{mark}}}{token.text[len(line):]}")


def _has_colours(console: Console) -> bool:
    return console.color_system is not None and not console.no_color


def two_columns() -> Table:
    """Names and values; tables one below the other line up."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", min_width=12)
    table.add_column()
    return table


def summary(finish: completion_pb2.Finish) -> Table:
    """Round statistics of one completion."""
    report, usage = finish.speculation, finish.usage
    table = two_columns()
    rate = tokens_per_second(finish)
    table.add_row("policy", f"stop {report.stop_rule}, accept {report.accept_rule}, {promise(report)}")
    table.add_row("tokens", f"{usage.completion_tokens} from a prompt of {usage.prompt_tokens}, {rate:.1f} a second")
    if report.verify_steps:
        table.add_row(
            "drafted",
            f"{report.drafted_tokens} in {report.verify_steps} rounds, {report.accepted_tokens} accepted"
            f" ({report.draft_acceptance_rate:.0%}), {report.lossy_tokens} by distance alone",
        )
        table.add_row("per round", f"{report.mean_acceptance_length:.2f} tokens (mean acceptance length)")
        table.add_row("time", _time(report))
    if report.draft_failures:
        table.add_row("draft", "[yellow]not available; the target went on alone[/yellow]")
    if report.thresholds:
        values = (f"{name} {value:.3f}" for name, value in sorted(report.thresholds.items()))
        table.add_row("thresholds", ", ".join(values))
    return table


def promise(report: completion_pb2.SpeculationReport) -> str:
    return "lossy" if report.lossy else "lossless"


def tokens_per_second(finish: completion_pb2.Finish) -> float:
    """Of the decoding alone: the first token and the prompt are not counted."""
    time = finish.speculation.time
    seconds = (time.total_microseconds - time.first_token_microseconds) / 1e6
    return (finish.usage.completion_tokens - 1) / seconds if seconds > 0 else 0.0


def _time(report: completion_pb2.SpeculationReport) -> str:
    time, steps = report.time, report.verify_steps
    draft, target = time.draft_compute_microseconds / steps / 1e3, time.target_compute_microseconds / steps / 1e3
    overhead = time.round_overhead_median_microseconds / 1e3
    return f"a round: draft {draft:.1f}, target {target:.1f}, the rest {overhead:.1f} ms (median)"


def log_probability_table(tokens: Sequence[completion_pb2.TokenLogProbability]) -> Table:
    """A line for each token: how likely it was, and what was likeliest in its place."""
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")
    for token in tokens:
        others = ", ".join(f"{_token(each)} {each.log_probability:.3f}" for each in token.top)
        table.add_row(Text(_token(token)), f"{token.log_probability:.3f}", Text(others))
    return table


def _token(token: completion_pb2.TokenLogProbability) -> str:
    """In quotes, with what a terminal would obey escaped; a special token by its number."""
    return repr(token.token.decode(errors="replace")) if token.token else f"<{token.token_id}>"


def to_json(
    text: str,
    token_ids: list[int],
    tokens: list[completion_pb2.TokenAccount] | None,
    finish: completion_pb2.Finish,
    log_probabilities: Sequence[completion_pb2.TokenLogProbability] = (),
) -> dict[str, Any]:
    """The object of `--json`."""
    result: dict[str, Any] = {
        "text": text,
        "token_ids": token_ids,
        "finish_reason": plain_enum(completion_pb2.FinishReason, finish.reason),
        "usage": to_plain(finish.usage),
        "speculation": to_plain(finish.speculation),
        "seed": finish.seed,
    }
    if finish.stop:
        result["stop"] = finish.stop
    if tokens is not None:
        result["tokens"] = [to_plain(token) for token in tokens]
    if log_probabilities:
        result["log_probabilities"] = [to_plain(token) for token in log_probabilities]
    return result


def plain_enum(kind: Any, value: int) -> str:
    """`FINISH_REASON_STOP` as `stop`."""
    return _short(kind.DESCRIPTOR, value)


def to_plain(message: Message) -> dict[str, Any]:
    """A message as JSON values: numbers stay numbers (protobuf's own form makes strings of 64-bit ones), enums lose
    their prefix, bytes are text, unset optional fields are left out, what is not finite is null."""
    result: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        if field.has_presence and not message.HasField(field.name):
            continue
        value = getattr(message, field.name)
        entry = field.message_type
        if entry is not None and entry.GetOptions().map_entry:
            result[field.name] = {str(key): _plain(entry.fields_by_name["value"], value[key]) for key in sorted(value)}
        elif field.is_repeated:
            result[field.name] = [_plain(field, item) for item in value]
        else:
            result[field.name] = _plain(field, value)
    return result


def _plain(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return to_plain(value)
    if field.enum_type is not None:
        return _short(field.enum_type, value)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def _short(descriptor: Any, value: int) -> str:
    names = descriptor.values_by_number
    prefix = names[0].name.removesuffix("UNSPECIFIED")
    return names[value].name.removeprefix(prefix).lower() if value in names else str(value)
