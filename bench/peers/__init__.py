"""Tandem beside what an engineer has today: transformers' generate, and the servers that are installed."""
