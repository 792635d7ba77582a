"""One stream for each sequence, as typed calls."""

from orchestrator.streams.draft import DraftStream
from orchestrator.streams.target import TargetStream

__all__ = ["DraftStream", "TargetStream"]
