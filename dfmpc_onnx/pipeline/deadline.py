"""A limit on the seconds of a run, and what was cut short to keep to it.

Nothing is interrupted: what may take long asks, before each of its steps, whether its share of the time is gone, and
goes on the shortest way if so. So the file is always whole, and the same for the same answers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from dfmpc_onnx.errors import OptionError

# Shares of the time, from the start on, by whose end a part of the work should be done. What comes last has the rest:
# the closing check, or what a report says of the layers and the causes of the error.
EQUALIZED, ESTIMATED, MEASURED, CHOSEN, ROUNDED, SEARCHED, CHECKED = 0.1, 0.3, 0.45, 0.5, 0.75, 0.85, 0.9


class Deadline:
    """How much of a limit is gone; without a limit nothing ever is. The time runs from when it is made.

    seconds_of_run: of the float network on one input, once somebody has measured it.
    """

    def __init__(self, seconds: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """seconds: None for no limit. Raises OptionError where they are no positive number."""
        if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
            raise OptionError(f"max-seconds {seconds:g}: give a number of seconds above 0")
        self.seconds = seconds
        self.now = clock
        self.seconds_of_run: float | None = None
        self._began = clock()
        self._cut: dict[str, int] = {}  # how often; 0 of what is not counted

    @property
    def limited(self) -> bool:
        return self.seconds is not None

    def until(self, share: float) -> float:
        """The seconds that are left until a share of the time is gone; below 0 once it is."""
        return math.inf if self.seconds is None else share * self.seconds - (self.now() - self._began)

    def past(self, share: float) -> bool:
        """Whether a share of the time is gone."""
        return self.limited and self.until(share) <= 0

    def cut(self, what: str) -> None:
        """Note what was cut short."""
        self._cut[what] = 0

    def count(self, what: str) -> None:
        """Note one more of what was cut short."""
        self._cut[what] = self._cut.get(what, 0) + 1

    @property
    def cuts(self) -> tuple[str, ...]:
        """What was cut short, in words."""
        return tuple(f"{what}: {times}" if times else what for what, times in self._cut.items())

    @property
    def warnings(self) -> tuple[str, ...]:
        """One warning of how long the run took and what was cut short; none where nothing was."""
        if not self._cut:
            return ()
        took = self.now() - self._began
        return (f"max-seconds {self.seconds:g}: {took:.1f} s were taken; cut short: {'; '.join(self.cuts)}",)
