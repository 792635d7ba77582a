"""The README.md of a draft: what it is, how it was made, what it reaches."""

from __future__ import annotations

from typing import Any

_CARD = """# A draft for {target}

A draft of {layers} layers for {target}, for speculative decoding with Tandem: {layers} decoder layers and {rest}
({parameters:.1f} M parameters), {weights}. Embedding and output layer are the target's own and are taken from it
when the draft is loaded. {says}{reads}

    python -m draft_service --model FOLDER

It began as layers {origins} of the target{start} and was distilled on {tokens:,} tokens that the target wrote itself in
{sequences:,} answers. `recipe.toml` makes it again with `tandem distil --recipe recipe.toml --out FOLDER`;
`metrics.json` has all figures.

On {held_out_tokens:,} tokens of {held_out:,} answers that it never learnt from:

| | |
|---|---|
| greedy agreement with the target | {greedy_agreement:.3f} |
| 1 - TV at temperature 1 (chance that a candidate is accepted) | {one_minus_tv:.3f} or more |
{rounds}
The licence is the target's.
"""

_READS = " It reads the target's features, which the services bring it, and goes with this target alone."


def card(metrics: dict[str, Any], *, weights: str, start_from: str | None) -> str:
    """metrics: as `metrics.json` has them. weights: of the folder."""
    vocabulary, data, held_out = metrics["vocabulary"], metrics["data"], metrics["held_out"]
    says = "It can say every token."
    if vocabulary["size"] < vocabulary["of"]:
        says = (
            f"It can say {vocabulary['size']:,} of {vocabulary['of']:,} tokens, on which"
            f" {vocabulary['mass']:.1%} or more of the target's probability lay."
        )
    kinds = {"0": held_out["tokens_per_round_greedy"], "1": held_out["tokens_per_round_temperature_1"]}
    lines = [
        f"| tokens a round at temperature {kind}, of {', '.join(rounds)} candidates |"
        f" {', '.join(f'{tokens:.2f}' for tokens in rounds.values())} |\n"
        for kind, rounds in kinds.items()
        if rounds
    ]
    return _CARD.format(
        target=metrics["target"],
        layers=metrics["layers"],
        parameters=metrics["parameters"] / 1e6,
        weights="int8 with a scale for each row" if weights == "int8" else "bfloat16",
        says=says,
        rest="the final norm" if metrics["kind"] == "layers" else "a linear layer before them",
        reads="" if metrics["kind"] == "layers" else _READS,
        origins=", ".join(map(str, metrics["origins"])),
        start=f", by way of the draft {start_from}," if start_from else "",
        tokens=data["tokens"],
        sequences=data["sequences"],
        held_out=data["held_out_sequences"],
        held_out_tokens=data["held_out_tokens"],
        greedy_agreement=held_out["greedy_agreement"],
        one_minus_tv=held_out["one_minus_tv"],
        rounds="".join(lines),
    )
