"""The orchestrator: holds the text, the thresholds and the policy of each completion; no weights, no torch."""

from __future__ import annotations

import tandem.rpc  # noqa: F401 (before grpc, which it tells what to log)
