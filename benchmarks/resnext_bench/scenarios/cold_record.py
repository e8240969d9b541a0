"""The record of a cold start."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from resnext.artifact.specs import Strict


class Start(Strict):
    """One start, from nothing to answers, in a fresh process. Times in seconds.

    Attributes:
        python_s: until the interpreter ran the first line.
        library_s: to import the runtime's library.
        toolkit_s: to import this toolkit.
        open_s: to read and open the artifact, or the file of the weights.
        first_s: the first run; what is compiled at first use is in it.
        steady_s: median of the runs after it.
        peak_host_bytes: peak resident memory of the process; None if the system does not tell.
    """

    python_s: float
    library_s: float
    toolkit_s: float
    open_s: float
    first_s: float
    steady_s: float
    peak_host_bytes: int | None

    @property
    def total_s(self) -> float:
        """From the start of the process to its first answer."""
        return self.python_s + self.import_s + self.open_s + self.first_s

    @property
    def import_s(self) -> float:
        """The runtime's library and this toolkit."""
        return self.library_s + self.toolkit_s

    @property
    def jit_s(self) -> float:
        """What the first run took beyond a later one: compiling, choosing kernels, allocating."""
        return max(0.0, self.first_s - self.steady_s)


class ColdStartRecord(Strict):
    """Starts in fresh processes, without and with what an earlier one has cached.

    Attributes:
        without_caches: in an empty cache folder; one for each repetition.
        with_caches: in the folder of the start before.
        file_dropped: whether the pages of the file that is opened had left memory before each of
            the first; None if the system does not tell. Those of libraries stay: this process uses
            them.
        build_s: seconds that building the artifact took; 0 for a live network, None if it is not
            recorded.
    """

    without_caches: tuple[Start, ...]
    with_caches: tuple[Start, ...]
    file_dropped: bool | None
    build_s: float | None


def median_of(starts: tuple[Start, ...], value: Callable[[Start], float]) -> float:
    """Median of ``value`` over ``starts``."""
    return statistics.median(map(value, starts))
