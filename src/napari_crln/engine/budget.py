"""A share of training time, as a bucket of seconds: training fills it, previews empty it.

An advance lets the first preview come early; it is repaid, as nothing is earned until training has made up for
it; where its purpose is fulfilled for less, the rest of it is not spent. So what is spent stays below
max(advance, share × training time), but for what one piece of work takes longer than was expected of it: that is a debt, repaid too.
"""

from __future__ import annotations


class Budget:
    """Seconds that may be spent.

    Parameters
    ----------
    share : seconds earned by a second of training, 0-0.5; 0: nothing may be spent
    advance_s : seconds that may be spent before any are earned
    """

    def __init__(self, share: float, advance_s: float = 2.0) -> None:
        self.share = share
        self._advance_s = advance_s
        self._earned_s = self._spent_s = 0.0

    @property
    def left_s(self) -> float:
        """Seconds that may be spent now; negative while in debt."""
        if self.share == 0:
            return 0.0
        return max(self._advance_s, self._earned_s) - self._spent_s

    def end_advance(self) -> None:
        """What the advance was for has been done: from now on only what is earned may be spent."""
        self._advance_s = 0.0

    def earn(self, training_s: float) -> None:
        """Count time of training, at the share of now."""
        self._earned_s += self.share * training_s

    def spend(self, seconds: float) -> None:
        """Count time of previews."""
        self._spent_s += seconds
