"""`python -m tandem`: the command, for launchers such as torchrun that start modules."""

from __future__ import annotations

from tandem.cli import main

if __name__ == "__main__":
    main()
