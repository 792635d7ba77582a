"""What an exposition says, to be compared."""

from __future__ import annotations

import re
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

from tandem.telemetry.metric import Metrics

_TYPE = re.compile(r"^# TYPE (\S+) (\S+)$", re.MULTILINE)


class Reading:
    """Of one service's metrics at one moment."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._values = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    @classmethod
    def of(cls, metrics: Metrics) -> Reading:
        return cls(metrics.exposition().decode())

    def __call__(self, name: str, **labels: str) -> float:
        """The sum over all series of that name with these labels; 0 where there is none."""
        wanted = set(labels.items())
        return sum(value for (found, have), value in self._values.items() if found == name and wanted <= have)

    def labels(self, label: str) -> set[str]:
        """Values that a label has, on any metric."""
        return {value for _, have in self._values for name, value in have if name == label}

    def kinds(self) -> Mapping[str, str]:
        """Of every metric that is told, with or without a series."""
        return dict(_TYPE.findall(self._text))
