"""The default lossless rule: whichever exact rule keeps most."""

from __future__ import annotations

from orchestrator.acceptance.block import BlockVerification


class Exact(BlockVerification):
    """Match at temperature 0, block verification otherwise, which never keeps less than the ratio test on
    average.
    """

    name = "exact"
