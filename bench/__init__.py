"""Benches: figures about Tandem that anyone can measure again. `python -m bench --help`."""
