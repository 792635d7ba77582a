"""What is accepted, what is drafted in vain, and what tells the two apart."""

from __future__ import annotations

from typing import Any

from grafana_foundation_sdk.models.common import StackingMode

from deploy.grafana.panels import Query, bars, density, graph
from deploy.grafana.queries import BY_ACCEPT, BY_POLICY, POLICY, RANGE, buckets, increase, mean, quantile, rate

TITLE = "What is accepted, and what is drafted in vain"

_QUIET = "No candidate has been verified in this time"
_VERIFIED, _ACCEPTED = "tandem_verified_position_total", "tandem_accepted_position_total"
_ENTROPY, _DISTANCE = "tandem_draft_entropy_nats", "tandem_js_distance"


def panels() -> list[Any]:
    return [*_shares(), *_separation(), *_densities()]


def _shares() -> list[Any]:
    by = ("position",)
    accepted = increase(_ACCEPTED, *BY_ACCEPT, by=by, window=RANGE)
    share = f"{accepted} / ({increase(_VERIFIED, *BY_ACCEPT, by=by, window=RANGE)} > 0)"
    # As text, 10 comes before 2.
    ordered = f'label_replace({share}, "position", "0$1", "position", "([0-9])")'
    first = ('position="1"', *BY_ACCEPT)
    rule = ("accept_rule",)
    return [
        bars(
            "Accepted, by position in the block",
            "Of the candidates at a position that were verified, the share that was accepted. It falls with the"
            " position, since one refused candidate ends its block. A low first bar: the draft does not know the"
            " target. A steep fall: shorter blocks waste less.",
            Query(ordered), by="position", unit="percentunit", most=1, nothing=_QUIET,
        ),
        graph(
            "First candidate accepted",
            "Of the first candidates of blocks, the share that was accepted: how far draft and target agree, whatever"
            " the length of blocks. If it falls and nothing was changed, callers ask for other things now.",
            Query(f"{rate(_ACCEPTED, *first, by=rule)} / {rate(_VERIFIED, *first, by=rule)}", "{{accept_rule}}"),
            unit="percentunit", nothing=_QUIET,
        ),
        graph(
            "Drafted in vain",
            "Share of candidates that were drafted and not accepted. A fixed length wastes most; an adaptive stop rule"
            " is there to waste less.",
            Query(
                f"{rate('tandem_wasted_tokens_total', *BY_POLICY, by=POLICY)}"
                f" / {rate('tandem_drafted_tokens_total', *BY_POLICY, by=POLICY)}",
                "{{stop_rule}} {{accept_rule}}",
            ),
            unit="percentunit", nothing=_QUIET,
        ),
        graph(
            "Without a draft, though one was asked for",
            "Tokens a second that the target made alone. no_draft: the draft failed, none was there, or its context was"
            " full. late: a block was not there in time. slow: rounds with the draft took longer than without it."
            " not_worth: the stop rule reckoned that drafting would not pay; that is as it should be. overload: a bound"
            " of the target or of the orchestrator is nearly reached.",
            Query(rate("tandem_fallback_tokens_total", by=("reason",)), "{{reason}}"),
            unit="none", stack=StackingMode.NORMAL, nothing="Every token that asked for a draft had one",
        ),
        graph(
            "Draft failures",
            "Times a second that a draft failed or was not there; the completion goes on with the target alone until a"
            " draft is there again.",
            Query(rate("tandem_draft_failures_total"), "a second"),
            unit="none", nothing="No orchestrator is scraped",
        ),
        graph(
            "Tokens let through by lossy rules",
            "Candidates a second that a lossy rule accepted and the exact one would have refused.",
            Query(rate("tandem_lossy_tokens_total", *BY_POLICY, by=POLICY), "{{stop_rule}} {{accept_rule}}"),
            unit="none", nothing="No completion has ended in this time",
        ),
    ]  # fmt: skip


def _separation() -> list[Any]:
    """Adaptive rules draw a line between accepted and rejected candidates: is there a place for it?"""
    found = []
    for quantity, histogram, threshold, rule, unit in (
        ("Entropy", _ENTROPY, "tandem_entropy_threshold_nats", "stop", "suffix: nats"),
        ("Distance", _DISTANCE, "tandem_distance_threshold", "accept", "none"),
    ):
        found.append(
            graph(
                f"{quantity} of accepted and of rejected candidates",
                f"Means of both, of all policies, and the thresholds that adaptive {rule} rules had at the end of"
                " completions (median). The further the means lie apart, the better a rule can tell one from the other."
                " Of a block's rejected candidates only the first was judged.",
                Query(mean(histogram, by=("outcome",)), "{{outcome}}"),
                Query(quantile(0.5, threshold, *BY_POLICY, by=POLICY), "threshold of {{stop_rule}} {{accept_rule}}"),
                unit=unit, width=12, colours={"accepted": "green", "rejected": "red"}, nothing=_QUIET,
            )
        )  # fmt: skip
    return found


def _densities() -> list[Any]:
    return [
        density(
            f"{quantity} of {outcome} candidates",
            f"How many candidates had which {quantity.lower()}. {told}",
            buckets(histogram, f'outcome="{outcome}"'), unit=unit, scheme=scheme, nothing=_QUIET,
        )
        for quantity, histogram, unit, told in (
            ("Entropy", _ENTROPY, "suffix: nats", "The draft's uncertainty; low where it is sure."),
            ("Distance", _DISTANCE, "none", "Jensen-Shannon's, of draft and target, 0 to 1, where a rule needs it."),
        )
        for outcome, scheme in (("accepted", "Greens"), ("rejected", "Reds"))
    ]  # fmt: skip
