"""How long a completion waits for its draft: for one block, and for a draft that is slower than the target alone."""

from __future__ import annotations

from collections import deque

# Jacobson and Karels, "Congestion avoidance and control", 1988; RFC 6298: the same estimate as of TCP's retransmission.
_GAIN, _VARIANCE_GAIN, _VARIANCES = 1 / 8, 1 / 4, 4.0

# Of the last rounds so many have to be slower, each by more than this factor: one hiccup says nothing.
_ROUNDS, _SLOW_ROUNDS, _FACTOR = 8, 6, 1.5
# And of those of a trial, by less: whoever was slow has to be quicker than that.
_TRIAL_ROUNDS, _TRIAL_SLOW_ROUNDS, _TRIAL_FACTOR = 3, 2, 1.0
# Tokens that the target then makes alone: at first and at most, doubling.
_ALONE = (32, 512)
_MEMORY = 1 / 8


class Patience:
    """For something that happens again and again. slack: seconds by which it may take longer than it did of late.
    first: what it is taken to last before it was seen."""

    def __init__(self, slack: float, first: float) -> None:
        self._slack = slack
        self._first = first
        self._mean: float | None = None
        self._deviation = 0.0
        self._each = 0.0

    def saw(self, seconds: float, size: int = 0) -> None:
        """It took so long. size: of what was made."""
        each = seconds / (1 + size)
        if self._mean is None:
            self._mean, self._deviation, self._each = seconds, seconds / 2, each
            return
        self._deviation += _VARIANCE_GAIN * (abs(seconds - self._mean) - self._deviation)
        self._mean += _GAIN * (seconds - self._mean)
        self._each += _GAIN * (each - self._each)

    def expects(self, seconds: float) -> None:
        """The first one, to take at most so long."""
        self._first = min(self._first, seconds)

    def seconds(self, size: int = 0) -> float:
        """To wait for the next one, of this size at most: an adaptive rule may ask for more than it did of late."""
        if self._mean is None:
            return self._first + self._slack
        expected = max(self._mean + _VARIANCES * self._deviation, self._each * (1 + size))
        return expected + self._slack


class Worth:
    """Whether the draft is slower than it can help: whether rounds take longer than the target alone would have taken
    for all that they could have yielded, had every candidate been accepted. Whether it pays with what is accepted is
    the stop rule's matter, not this one's.

    A token of the target alone is taken to last as long as it did of late, at most as long as verifying a block does.
    margin: seconds of a round for which nobody changes anything.
    """

    def __init__(self, margin: float = 0.0) -> None:
        self._margin = margin
        self._slow: deque[bool] = deque(maxlen=_ROUNDS)
        self._alone: float | None = None
        self._verify: float | None = None
        self._tokens = _ALONE[0]
        self._on_trial = False
        self.left = 0  # tokens to be made alone

    def alone(self, seconds: float) -> None:
        """The target has made a token."""
        self._alone = _mean(self._alone, seconds)
        self.left = max(0, self.left - 1)

    def round(self, drafted: int, seconds: float, verifying: float) -> None:
        """A round has ended. seconds: all of it. verifying: the target's part."""
        self._verify = _mean(self._verify, verifying)
        token = self._verify if self._alone is None else min(self._alone, self._verify)
        factor = _TRIAL_FACTOR if self._on_trial else _FACTOR
        alone = (drafted + 1) * token
        self._slow.append(seconds > factor * alone and seconds - alone > self._margin)
        if self._on_trial and len(self._slow) >= _TRIAL_ROUNDS:
            if sum(self._slow) >= _TRIAL_SLOW_ROUNDS:
                self._leave()
            else:
                self._on_trial, self._tokens = False, _ALONE[0]
        elif not self._on_trial and sum(self._slow) >= _SLOW_ROUNDS:
            self._leave()

    def anew(self) -> None:
        """With another draft."""
        self._slow.clear()
        self._on_trial, self._tokens, self.left = False, _ALONE[0], 0

    def _leave(self) -> None:
        self.left, self._tokens = self._tokens, min(2 * self._tokens, _ALONE[1])
        self._on_trial = True
        self._slow.clear()


class Chunks:
    """How many tokens the target makes at a time while there is no draft: it cannot be interrupted, so few at first,
    since most drafts are back soon."""

    _SIZES = (4, 32)

    def __init__(self) -> None:
        self._size = self._SIZES[0]

    def next(self) -> int:
        size, self._size = self._size, min(2 * self._size, self._SIZES[1])
        return size

    def anew(self) -> None:
        self._size = self._SIZES[0]


def _mean(mean: float | None, value: float) -> float:
    return value if mean is None else mean + _MEMORY * (value - mean)
