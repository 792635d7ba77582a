"""What a service tells of itself while it runs: metrics, traces, and what a line of its log belongs to.

Every metric is declared in `catalogue.py`, every span in `spans.py`, once; docs/metrics.md is made of both.
"""

from tandem.telemetry.metric import EXPOSITION_TYPE
from tandem.telemetry.orchestrator import Telemetry

__all__ = ["EXPOSITION_TYPE", "Telemetry"]
