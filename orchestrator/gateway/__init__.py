"""The HTTP face of the orchestrator: OpenAI's API, Tandem's own as JSON, the playground, health and metrics.

`app.py` first. Every route only translates: what a request means is decided in `orchestrator/completions.py`, for gRPC
and HTTP alike, so that identical requests give identical texts. Who may call is decided in `orchestrator/keys.py`, for
both too; without keys, a header with one is taken and not looked at.
"""
