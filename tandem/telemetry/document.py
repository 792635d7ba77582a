"""Writes `docs/metrics.md` from the catalogue: `python -m tandem.telemetry.document [OUT]`, by default into the
repository. What is said of a metric, a span or a field stands where it is declared."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tandem.telemetry import catalogue, fields, spans

PAGE = Path("docs/metrics.md")
_ROOT = Path(__file__).resolve().parents[2]

_PAGE = """<!-- Generated from tandem/telemetry by `make metrics`; not to be edited. -->

# Metrics, traces and logs

Each service has the same flags for what it tells of itself; all but the log are off by default.

| flag | |
|---|---|
| `--metrics-port 7090` | `GET /metrics` for Prometheus, on the same address by plain HTTP, until the drain has ended. \
Without it the orchestrator has `/metrics` on its HTTP port, and draft and target have none |
| `--otlp-endpoint HOST:4317` | traces, over OTLP by gRPC; `https://HOST:4317` for TLS. Needs the packages of the \
extra `tracing` (`make setup` installs them) |
| `--trace-share 0.01` | of requests whose callers have not decided it; where a caller sends `traceparent`, by gRPC or \
HTTP, its decision holds |
| `--log-format json` | a JSON object on each line of stderr instead of lines for people |
| `--log-prompts` | on the orchestrator: with the text of prompts. Otherwise no metric, span or line holds text of a \
prompt or of a completion |

A request has one name on all three services: the caller's `request_id`, or one that the orchestrator gives it and
tells draft and target as `x-request-id`. W3C's `traceparent` is passed on the same way.

## Metrics

Counters count what has happened, also of completions that are cancelled later. Besides these each service has
prometheus-client's `process_*`.

{metrics}

## Labels

{labels}

## Spans

One trace for each request.

{spans}

## Attributes

Each with `tandem.` in front.

{attributes}

## Log

Lines go to stderr. Those of libraries are among them, from `warning` on, and with `--log-format json` also what native
code writes there itself (gRPC's core, torch). A flag that is wrong is told in plain words before that begins.

Of every line:

{every_line}

Of the line `completed`, `cancelled` or `failed`, one for each completion, on the orchestrator at `info`:

{completion}

Of the line `a session ended`, on draft and target at `debug`, and of `refused a session`, at `info`:

{session}
"""


def document(out: Path) -> Path:
    """Writes `out`/docs/metrics.md and returns its path."""
    page = out / PAGE
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(_render(), encoding="utf-8")
    return page


def _render() -> str:
    return _PAGE.format(
        metrics=_table(
            ("metric", "kind", "labels", "on", "meaning"),
            (
                (f"`{metric.name}`", metric.kind, _codes(metric.labels), ", ".join(metric.on), metric.told)
                for metric in catalogue.METRICS
            ),
        ),
        labels=_named("label", catalogue.LABELS),
        spans=_table(
            ("span", "below", "attributes", "meaning"),
            ((f"`{span.name}`", span.below, _codes(span.attributes), span.told) for span in spans.SPANS),
        ),
        attributes=_named("attribute", spans.ATTRIBUTES),
        every_line=_named("field", fields.EVERY_LINE),
        completion=_named("field", fields.COMPLETION),
        session=_named("field", fields.SESSION),
    )


def _named(what: str, told: Mapping[str, str]) -> str:
    return _table((what, "meaning"), ((f"`{name}`", meaning) for name, meaning in told.items()))


def _codes(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(line)} |" for line in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write docs/metrics.md from the catalogue.")
    parser.add_argument("out", nargs="?", type=Path, default=_ROOT, help="folder to write into")
    document(parser.parse_args().out)
    print(PAGE)
