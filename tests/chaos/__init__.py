"""The chaos test: the real services under kills, stops, restarts and a network that fails, and what callers see of it.

`__main__.py` has the flags, `run.py` the course of a run, `judging.py` what counts as right.
"""
