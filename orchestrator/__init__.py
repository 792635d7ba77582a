"""The orchestrator: holds the text, the thresholds and the policy of each completion; no weights, no torch."""
