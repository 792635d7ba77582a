"""The target service: verifies candidates for many callers in one batch."""
