"""The `tandem` command."""

from __future__ import annotations

import signal

__all__ = ["main"]


def main() -> None:
    """The entry point. Ctrl-C while modules load has nothing to put in order: the process ends without a trace."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    import tandem.rpc  # noqa: F401 (before grpc, which it tells what to log)
    from tandem.cli.entry import main as run

    signal.signal(signal.SIGINT, signal.default_int_handler)
    run()
