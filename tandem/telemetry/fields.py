"""Every field of a line of the log, once."""

from __future__ import annotations

from collections.abc import Mapping

#: Of every line in JSON. Lines for people have time, service, level, event, and what else there is as `name=value`.
EVERY_LINE: Mapping[str, str] = {
    "timestamp": "UTC, to the microsecond",
    "level": "`debug`, `info`, `warning`, `error` or `critical`",
    "service": "`orchestrator`, `draft` or `target`",
    "logger": "the module that wrote it",
    "event": "what happened",
    "request_id": "of the request that it concerns, the same on all three services; on lines that concern one",
    "exception": "the trace of what was raised, where something was",
}

#: Of a completion's line: one for each, on the orchestrator, at `info`.
COMPLETION: Mapping[str, str] = {
    "outcome": "`stop`, `length`, `cancelled`, or the reason of the error",
    "choice": "which of the request's choices, from 0",
    "stop_rule": "in force; `off` without speculation",
    "accept_rule": "in force; `off` without speculation",
    "prompt_tokens": "of the prompt",
    "tokens": "generated",
    "takeovers": "times that it lost its target and went on at another, or at the same one again",
    "acceptance_length": "tokens of a verification, in the mean; 1 without any",
    "acceptance_rate": "of candidates; 0 without any",
    "seconds": "from the completion's begin to its end",
    "trace_id": "of its trace, where one is recorded",
    "prompt": "its text, with `--log-prompts`",
}

#: Of the end of a session on draft or target, at `debug`, and of one that was not opened, at `info`.
SESSION: Mapping[str, str] = {
    "outcome": "`closed` by its caller, or the reason of the error",
    "blocks": "answered",
    "seconds": "that it was open",
    "reason": "why it was not opened",
    "field": "that was at fault, where one was",
}
