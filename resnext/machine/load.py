"""Who used the processors during a measurement: this process, others, the host below a virtual
machine.

The kernel's counters are read before and after a stretch (`Meter`), and the difference says whether
the stretch was disturbed (`Load.disturbances`). Three counters are needed, since none sees all: the
time that tasks waited for a processor (pressure stall information) notices a foreign process within
milliseconds; busy time less our own notices it without that; stolen time notices neighbors on the
same host.
"""

from __future__ import annotations

import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from .threads import control_groups, own_affinity, physical_cores

#: Share of the time in which a task may wait for a processor, or be stolen from, or be throttled.
#: Quiet rounds of a two-core machine wait 0.3 to 3 %; one foreign process makes that 50 %.
MOST_WAITING = 0.05
MOST_STOLEN = 0.02
MOST_THROTTLED = 0.01
#: Processors' worth that others may take of those that the measured threads need, per thread.
MOST_TAKEN = 0.05
#: The kernel counts busy and stolen time in ticks; that many may be wrong in one stretch.
_WRONG_TICKS = 3
#: Share of all processors in use from which tasks that wait may be ours.
_CROWDED = 0.9


class Load(BaseModel):
    """Use of the processors during one stretch of time. Processors are those that this process may
    run on.

    Attributes:
        wall_s: length of the stretch, seconds.
        processors: how many this process may use.
        cores: physical cores among them; two processors of one core share its units.
        own: mean number of them that this process and its finished children used.
        others: mean number that everything else used; None if the kernel does not say.
        stolen: mean number that the host below a virtual machine used for others; None as before.
        waiting: share of the time in which at least one task waited for a processor; None as
            before.
        throttled: share of the time for which the control group's quota was used up.
        runnable: running and waiting tasks of the whole machine at the end, this thread included.
        mhz: mean clock of the processors at the end, MHz; None if unknown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    wall_s: float
    processors: int
    cores: int
    own: float
    others: float | None = None
    stolen: float | None = None
    waiting: float | None = None
    throttled: float = 0.0
    runnable: int | None = None
    mhz: float | None = None

    def disturbances(self, threads: int | None) -> tuple[str, ...]:
        """What disturbed a stretch that was meant to have ``threads`` processors to itself, in
        words; empty if nothing did. None if other processes do the work: then only what the machine
        itself lacked.
        """
        reasons = []
        wrong = _WRONG_TICKS / os.sysconf("SC_CLK_TCK") / max(self.wall_s, 1e-9)
        others, stolen = self.others or 0.0, self.stolen or 0.0
        # Not processors: what runs on the second processor of a core slows the first one down.
        spare = max(0, self.cores - (threads or 0))
        crowded = self.own + others >= _CROWDED * self.processors
        taken = others - spare > MOST_TAKEN * (threads or 0) + wrong
        waited = crowded and (self.waiting or 0.0) > MOST_WAITING
        facts = [f"{others:.1f} processors"]
        if self.waiting is not None:
            facts.append(f"tasks waited {self.waiting:.0%} of the time")
        if threads is None:
            pass
        elif taken or (waited and others > MOST_TAKEN * threads):
            reasons.append(f"other processes ({', '.join(facts)})")
        elif waited:  # threads of this process, perhaps of a row that was visited before
            reasons.append(f"more threads than processors ({facts[-1]})")
        if stolen > MOST_STOLEN * self.processors + wrong:
            reasons.append(f"steal time ({stolen:.1f} processors)")
        if self.throttled > MOST_THROTTLED:
            reasons.append(f"the CPU quota ({self.throttled:.0%} of the time)")
        return tuple(reasons)


@dataclass(frozen=True)
class Counters:
    """The kernel's counters at one moment. Times in seconds, since a moment that does not matter.

    Attributes:
        wall_s: monotonic clock.
        own_s: CPU time of this process and its finished children.
        busy_s: time that the processors were busy; None if the kernel does not say.
        stolen_s: time that the host took from them.
        waited_s: time in which a task waited for a processor.
        throttled_s: time for which the quota was used up.
        runnable: running and waiting tasks.
    """

    wall_s: float
    own_s: float
    busy_s: float | None = None
    stolen_s: float | None = None
    waited_s: float | None = None
    throttled_s: float | None = None
    runnable: int | None = None


class Meter:
    """Reads the counters. One reading takes about 0.1 ms.

    Args:
        proc: the kernel's process file system.
        cgroup: folder of this process's control group; None looks for it.
    """

    def __init__(self, proc: Path = Path("/proc"), cgroup: Path | None = None) -> None:
        self._proc = proc
        self._cgroup = cgroup or _own_cgroup()
        self._tick = float(os.sysconf("SC_CLK_TCK"))
        self.processors = own_affinity()
        self._cores = len(physical_cores())

    def read(self) -> Counters:
        """The counters now."""
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        own_s = time.process_time() + children.ru_utime + children.ru_stime
        busy_s, stolen_s, runnable = self._stat()
        return Counters(
            time.perf_counter(),
            own_s,
            busy_s,
            stolen_s,
            self._waited(),
            self._throttled(),
            runnable,
        )

    def since(self, before: Counters) -> Load:
        """The load between ``before`` and now."""
        after = self.read()
        wall = max(after.wall_s - before.wall_s, 1e-9)

        def share(now: float | None, then: float | None) -> float | None:
            return None if now is None or then is None else max(0.0, now - then) / wall

        own = (after.own_s - before.own_s) / wall
        busy = share(after.busy_s, before.busy_s)
        return Load(
            wall_s=wall,
            processors=len(self.processors),
            cores=self._cores,
            own=own,
            others=None if busy is None else max(0.0, busy - own),
            stolen=share(after.stolen_s, before.stolen_s),
            waiting=share(after.waited_s, before.waited_s),
            throttled=share(after.throttled_s, before.throttled_s) or 0.0,
            runnable=after.runnable,
            mhz=self._mhz(),
        )

    def _stat(self) -> tuple[float | None, float | None, int | None]:
        """Busy and stolen seconds of the processors, and the number of runnable tasks."""
        busy, stolen, runnable, seen = 0, 0, None, False
        for line in _lines(self._proc / "stat"):
            key, *values = line.split()
            if key[:3] == "cpu" and key[3:].isdigit() and int(key[3:]) in self.processors:
                user, nice, system, _idle, _io, irq, softirq, steal = map(int, values[:8])
                busy += user + nice + system + irq + softirq
                stolen += steal
                seen = True
            elif key == "procs_running":
                runnable = int(values[0])
        if not seen:
            return None, None, runnable
        return busy / self._tick, stolen / self._tick, runnable

    def _waited(self) -> float | None:
        """Seconds in which a task waited, of this process's control group if that counts them."""
        own = [self._cgroup / "cpu.pressure"] if self._cgroup is not None else []
        for path in (*own, self._proc / "pressure" / "cpu"):
            for line in _lines(path):
                if line.startswith("some "):
                    return int(line.rpartition("total=")[2]) / 1e6
        return None

    def _throttled(self) -> float | None:
        if self._cgroup is None:
            return None
        for line in _lines(self._cgroup / "cpu.stat"):
            key, _, value = line.partition(" ")
            if key == "throttled_usec":  # v2
                return int(value) / 1e6
            if key == "throttled_time":  # v1
                return int(value) / 1e9
        return None

    def _mhz(self) -> float | None:
        clocks = [
            float(line.rpartition(":")[2])
            for line in _lines(self._proc / "cpuinfo")
            if line.startswith("cpu MHz")
        ]
        return sum(clocks) / len(clocks) if clocks else None


def _own_cgroup() -> Path | None:
    """Folder of this process's control group that counts throttling; None if there is none."""
    folders = [
        folder
        for folder, _ in control_groups()
        if any(line.startswith("throttled_") for line in _lines(folder / "cpu.stat"))
    ]
    return folders[-1] if folders else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []
