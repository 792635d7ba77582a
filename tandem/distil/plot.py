"""A picture of a training: losses and agreement against what was learnt from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_COLOURS = {
    "train": "#444444", "held out": "#D55E00", "greedy agreement": "#0072B2", "1 - TV at temperature 1": "#009E73",
}  # fmt: skip


def draw(metrics: dict[str, Any], path: Path) -> bool:
    """Writes a PNG from what `metrics.json` has; False where matplotlib is not installed or nothing was reported."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    reports = metrics["training"]["reports"]
    if not reports:
        return False
    tokens = [report["tokens"] for report in reports]
    held_out = [report["held_out"] for report in reports]
    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, agreement = figure.subplots(1, 2)
    _line(losses, tokens, [report["train_loss"] for report in reports], "train", "o")
    _line(losses, tokens, [each["loss"] for each in held_out], "held out", "s")
    losses.set_ylabel("KL and weighted TV, nats a token")
    _line(agreement, tokens, [each["greedy_agreement"] for each in held_out], "greedy agreement", "o")
    _line(agreement, tokens, [each["one_minus_tv"] for each in held_out], "1 - TV at temperature 1", "s")
    agreement.set_ylabel("share, held out")
    agreement.set_ylim(0, 1)
    for axes in (losses, agreement):
        axes.set_xlabel("tokens learnt from, with repeats")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.suptitle(f"A draft of {metrics['layers']} layers for {metrics['target']}")
    scratch = path.with_name(f".{path.name}.part")
    figure.savefig(scratch, dpi=110, format="png")
    scratch.replace(path)
    return True


def _line(axes: Any, tokens: list[int], values: list[float], name: str, marker: str) -> None:
    axes.plot(tokens, values, marker=marker, markersize=3, label=name, color=_COLOURS[name])
