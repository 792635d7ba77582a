"""`python -m target_service` for which a process is lost after two seconds of silence: tests need not wait longer."""

from __future__ import annotations

from tandem.inference.parallel import watch
from target_service.__main__ import main as serve


def main() -> None:
    watch._SILENCE_SECONDS = 2.0
    serve()


if __name__ == "__main__":
    main()
