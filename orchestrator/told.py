"""What a draft has been told of a completion's text, and what it is told with its next round."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.prefix import Prefix
from orchestrator.target_laws import TargetLaws, Wants
from tandem.v1 import block_pb2, distribution_pb2

# Features that are kept for a draft, of the text's last tokens: each may take many kilobytes.
_MOST_FEATURES = 64


class Told:
    """The text by its prefix, and what the target said at its positions. tokens: the text, as it grows."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.prefix = Prefix(tokens)
        self._tokens = tokens
        self._laws = TargetLaws[distribution_pb2.CompressedDistribution]()
        self._features = TargetLaws[bytes](_MOST_FEATURES)

    def tell(self, continuation: block_pb2.Continuation, wants: Wants) -> None:
        """Adds what the target said since."""
        if wants.entries:
            continuation.target_distributions.extend(self._laws.take())
        if wants.features:
            continuation.target_features = b"".join(self._features.take())

    def said(
        self,
        laws: Sequence[distribution_pb2.CompressedDistribution],
        committed: int,
        features: Sequence[bytes],
        before: Sequence[bytes],
    ) -> None:
        """By the target; as of `DraftSide.told`."""
        self._laws.add(laws, committed)
        self._features.add(features, committed, before)

    def rewind(self, length: int, before: int) -> None:
        """The text was cut to its first `length` tokens; it may have grown again since. before: tokens that it had."""
        self.prefix.rewind(length)
        self._laws.rewind(length, before, len(self._tokens))
        self._features.rewind(length, before, len(self._tokens))
