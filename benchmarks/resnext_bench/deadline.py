"""When a benchmark starts nothing more: its time is up, or it received a signal."""

from __future__ import annotations

import signal
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from resnext.errors import GateFailed

#: Share of the time for opening cases; the rest is for measuring them.
OPENING_SHARE = 0.5


class Deadline:
    """A time limit, counted from its creation. Work that has begun is finished.

    Args:
        max_seconds: nothing more is measured after this, and nothing more opened after half of it;
            None for no limit.
        signals: signals that end measuring early; none by default.

    Attributes:
        interrupted: whether a signal was received.
    """

    def __init__(
        self, max_seconds: float | None = None, signals: Collection[signal.Signals] = ()
    ) -> None:
        self._started = time.monotonic()
        self._max_seconds = float("inf") if max_seconds is None else max_seconds
        self._signals = signals
        self.interrupted = False

    def opening_over(self) -> bool:
        """Whether no further case may be opened."""
        return self.opening_left_s() <= 0

    def opening_left_s(self) -> float:
        """Seconds in which cases may still be opened."""
        return self.left_s(OPENING_SHARE)

    def left_s(self, share: float = 1.0) -> float:
        """Seconds until ``share`` of the time is over."""
        return share * self._max_seconds - self.spent_s()

    def spent_s(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._started

    @property
    def max_seconds(self) -> float | None:
        """The limit; None for none."""
        return None if self._max_seconds == float("inf") else self._max_seconds

    @property
    def ends(self) -> float | None:
        """When nothing further may be measured, by `time.monotonic`; None for no limit."""
        end = self._started + self._max_seconds
        return None if end == float("inf") else end

    def over(self) -> bool:
        """Whether nothing further may be measured."""
        return self.interrupted or self.left_s() <= 0

    def not_measured(self) -> GateFailed:
        """Why a case was not measured."""
        if self.interrupted:
            return GateFailed("not measured: interrupted")
        return GateFailed("not measured: out of time", hint="give a longer `max_seconds`")

    @contextmanager
    def heeding_signals(self) -> Iterator[None]:
        """Inside the block, the first signal ends the time; a second one has its usual effect."""
        previous = {number: signal.getsignal(number) for number in self._signals}

        def put_back() -> None:
            for number, handler in previous.items():
                signal.signal(number, handler)

        def stop(_number: int, _frame: object) -> None:
            self.interrupted = True
            put_back()

        for number in previous:
            signal.signal(number, stop)
        try:
            yield
        finally:
            put_back()
