"""Does speculation pay, and for whom?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deploy.grafana.panels import Query, figure, graph, listing
from deploy.grafana.queries import BY_POLICY, BY_STOP, GRAPH, POLICY, RANGE, SPECULATING, mean, rate

TITLE = "Does speculation pay, and for whom"

_LENGTH, _ROUND = "tandem_acceptance_length_tokens", "tandem_round_duration_seconds"
_PARTS, _TOKEN = "tandem_round_seconds_total", "tandem_time_per_output_token_seconds"
_STOP = ("stop_rule",)
_NO_ROUND = "No round with a draft in this time"
_NONE_ENDED = "No completion has ended in this time"

#: Below 0.95 it loses, from 1.05 it gains; between them noise decides.
_PAYS = [(None, "red"), (0.95, "yellow"), (1.05, "green")]

_AT_MOST = """\
**Speed-up over the target alone, at most** = tokens a round yields x (1 - the draft's share of the round), and 1 for \
the time in which the target goes alone by the rule's choice.

The target alone would need a step for each of these tokens. A step for one token takes no longer than the \
verification of a block, so what is left of a round without its draft is the most that one token would take. It is \
near the truth where verifying a block costs what a token costs (a GPU with few callers), and too high where it costs \
more.

Limits: it is a bound at the load that there is. If all went without a draft, more of them would be in the target at \
once; where long contexts fill the cache that would make its steps slower, and the bound may be too low."""

_MEASURED = """\
**Speed-up over the target alone, measured** = time of a token in completions with stop rule `off` x tokens a round \
yields / time of the round, and 1 for the time in which the target goes alone by the rule's choice.

It needs completions without a draft in the same time: send some with policy `off`. Completions for which no draft was \
there count as `off` too.

Limits: they have other prompts, and a target that also verifies blocks for others. A few completions are but noise."""


def panels() -> list[Any]:
    return [*_figures(), *_graphs(), _for_whom()]


def _alone(window: str) -> str:
    """Seconds for a token of the target alone, as completions without a draft had them."""
    return mean(_TOKEN, 'stop_rule="off"', window=window)


def _draft_share(by: Sequence[str], window: str) -> str:
    drafting = rate(_PARTS, 'part=~"draft_.*"', *SPECULATING, *BY_STOP, by=by, window=window)
    return f"{drafting} / {rate(f'{_ROUND}_sum', *SPECULATING, *BY_STOP, by=by, window=window)}"


def _length(by: Sequence[str], window: str) -> str:
    return mean(_LENGTH, *SPECULATING, *BY_STOP, by=by, window=window)


def _over_all(in_rounds: str, by: Sequence[str], window: str) -> str:
    """A speed-up of rounds, weighed with the time that they take; the rest is the target alone, at a speed-up of 1."""
    rounds = rate(f"{_ROUND}_sum", *SPECULATING, *BY_STOP, by=by, window=window)
    share = f"clamp_max({rounds} / {rate(_PARTS, *SPECULATING, *BY_STOP, by=by, window=window)}, 1)"
    return f"{share} * ({in_rounds}) + (1 - {share})"


def _at_most(by: Sequence[str], window: str) -> str:
    return _over_all(f"({_length(by, window)}) * (1 - {_draft_share(by, window)})", by, window)


def _measured(by: Sequence[str], window: str, *, alone: str) -> str:
    yielded = rate(f"{_LENGTH}_sum", *SPECULATING, *BY_STOP, by=by, window=window)
    pace = f"{yielded} / {rate(f'{_ROUND}_sum', *SPECULATING, *BY_STOP, by=by, window=window)}"
    return _over_all(f"{pace} * scalar({alone})", by, window)


def _figures() -> list[Any]:
    tokens = rate("tandem_completion_tokens_total", window=RANGE)
    firing = 'sum(ALERTS{alertname=~"Tandem.*",alertstate="firing"}) or vector(0)'
    return [
        figure(
            "Speed-up, at most", _AT_MOST, _at_most((), RANGE),
            unit="suffix: x", steps=_PAYS, decimals=2, nothing=_NO_ROUND,
        ),
        figure(
            "Speed-up, measured", _MEASURED, _measured((), RANGE, alone=_alone(RANGE)),
            unit="suffix: x", steps=_PAYS, decimals=2, nothing="Needs completions with policy off",
        ),
        figure(
            "Tokens a round", "That a round with a draft yields: its accepted candidates and the one after them.",
            _length((), RANGE), unit="none", decimals=2, nothing=_NO_ROUND,
        ),
        figure(
            "Tokens a second", "Tokens generated for all callers together.",
            tokens, unit="none", decimals=1, nothing="No orchestrator is scraped",
        ),
        figure(
            "Let through by lossy rules",
            "Share of all tokens that a lossy accept rule accepted and the exact one would have refused."
            " 0 where every policy is lossless.",
            f"{rate('tandem_lossy_tokens_total', *BY_POLICY, window=RANGE)} / {tokens}",
            unit="percentunit", decimals=2, nothing=_NO_ROUND,
        ),
        figure(
            "Alerts that fire",
            "Of Tandem's rules; deploy/README.md says what to do about each. 0 also where Prometheus has not loaded"
            " them.",
            firing, unit="none", steps=[(None, "green"), (1, "red")], decimals=0, nothing="0",
        ),
    ]  # fmt: skip


def _graphs() -> list[Any]:
    return [
        graph(
            "Speed-up by stop rule",
            f"Above the line speculation pays, below it the target alone would be quicker.\n\n{_AT_MOST}\n\n{_MEASURED}"
            " Here the time of a token without a draft is taken over the last 30 minutes.",
            Query(_at_most(_STOP, GRAPH), "{{stop_rule}}, at most"),
            Query(_measured(_STOP, GRAPH, alone=_alone("30m")), "{{stop_rule}}, measured"),
            unit="suffix: x", line_at=1, width=12, nothing=_NO_ROUND,
        ),
        graph(
            "Tokens a round: what it yields, what it must",
            "A round that yields fewer tokens than its time is worth loses. It must yield at least 1 / (1 - the draft's"
            " share of the round). Where it does not, either more candidates have to be accepted (see acceptance), or"
            " the draft has to take less of the round (see where the time goes).",
            Query(_length(_STOP, GRAPH), "{{stop_rule}} yields"),
            Query(f"1 / (1 - {_draft_share(_STOP, GRAPH)})", "{{stop_rule}} must yield, at least"),
            unit="none", width=12, nothing=_NO_ROUND,
        ),
    ]  # fmt: skip


def _for_whom() -> Any:
    speculating = (*SPECULATING, *BY_POLICY)
    length = mean(_LENGTH, *speculating, by=POLICY, window=RANGE)
    yielded = rate(f"{_LENGTH}_sum", *speculating, by=POLICY, window=RANGE)
    spent = rate(f"{_ROUND}_sum", *speculating, by=POLICY, window=RANGE)
    lossy = rate("tandem_lossy_tokens_total", *BY_POLICY, by=POLICY, window=RANGE)
    ended = rate("tandem_request_duration_seconds_count", *BY_POLICY, by=POLICY, window=RANGE)
    return listing(
        "By policy",
        "One row for each pair of stop rule and accept rule that callers used. `off` is the target alone, by wish or"
        " because no draft was there. The speed-ups are those of rounds with a draft, explained above. What lossy rules"
        " let through is counted over the tokens that their rounds yielded.",
        Query(ended, "Completions a second"),
        Query(mean(_TOKEN, *BY_POLICY, by=POLICY, window=RANGE), "Time of a token"),
        Query(length, "Tokens a round"),
        Query(f"({length}) * on (stop_rule) group_left () (1 - {_draft_share(_STOP, RANGE)})", "Speed-up, at most"),
        Query(f"{yielded} / {spent} * scalar({_alone(RANGE)})", "Speed-up, measured"),
        Query(f"{lossy} / {yielded}", "Let through"),
        columns={"stop_rule": "Stop rule", "accept_rule": "Accept rule"},
        units={
            "Time of a token": "s", "Speed-up, at most": "suffix: x", "Speed-up, measured": "suffix: x",
            "Let through": "percentunit",
        },
        nothing=_NONE_ENDED,
    )  # fmt: skip
