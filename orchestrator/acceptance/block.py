"""Block verification (Sun et al., "Block Verification Accelerates Speculative Decoding", ICLR 2025)."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.acceptance.base import Judgement, Position, Verification
from orchestrator.acceptance.lossless import LosslessRule, accepts, keep, token_by_token


class BlockVerification(LosslessRule):
    """Keep the longest prefix whose u_i < h_i. Match at temperature 0. Lossless.

    The target sends h_i as the acceptance of candidate i, and as its correction a draw from
    norm(max(w p - q, 0)) with w of the prefix before it.
    """

    name = "block"
    sampling_verification = Verification.BLOCK

    def judge(self, block: Sequence[Position]) -> Judgement:
        # Under the greedy match acceptance is 0 or 1 for each candidate on its own: a match after a mismatch
        # must not bring the mismatch back.
        if self._greedy:
            return token_by_token(block)
        passed = (index for index in range(len(block), 0, -1) if accepts(block[index - 1]))
        return keep(block, next(passed, 0))
