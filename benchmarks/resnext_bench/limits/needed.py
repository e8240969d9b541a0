"""The ceilings that the rows of a run are held against."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from resnext.errors import SessionFailed
from resnext.machine.environment import Environment
from resnext.machine.load import Meter
from resnext.runtimes.registry import runtime_named
from resnext.runtimes.session import SERVED
from resnext_bench.deadline import Deadline

from .ceilings import Device, MachineCeilings, measured_ceilings, stored_ceilings

#: Measuring ceilings takes some ten seconds: a run that is shorter than `_WORTH_S` of timed runs,
#: or has less than `_LEFT_S` left, does without them.
_WORTH_S, _LEFT_S = 5.0, 60.0
#: Seconds to look whether others use the machine.
_LOOK_S = 0.2


@dataclass(frozen=True)
class Limits:
    """Ceilings by device and number of CPU threads, None for a GPU."""

    ceilings: Mapping[tuple[Device, int | None], MachineCeilings] = field(default_factory=dict)

    def of(self, device: str, threads: int) -> MachineCeilings | None:
        """Those of a session on ``device``; None if they were not measured, or another machine may
        compute.
        """
        if device == SERVED:
            return None
        return self.ceilings.get(("cpu", threads) if device == "cpu" else ("cuda", None))


def needed_limits(
    rows: Iterable[tuple[str, int]],
    timed_s: float,
    requested: str,
    environment: Environment,
    deadline: Deadline,
    say: Callable[[str], None],
) -> Limits:
    """The stored ceilings of every device and number of threads of a run, measured now if there are
    none or they were disturbed, there is time, and nothing else uses the machine.

    Args:
        rows: backend and CPU threads of each.
        timed_s: seconds that they will be timed for, all together.
        requested: device: ``cpu``, ``cuda`` or ``auto``.
        environment: this machine.
        deadline: of the run.
        say: called with one line at every step.
    """
    keys: dict[tuple[Device, int | None], None] = {}
    for backend, threads in rows:
        runtime = runtime_named(backend)
        if runtime.served:
            continue
        on_cpu = "cpu" in (requested, runtime.device) or not environment.gpus
        keys["cpu" if on_cpu else "cuda", threads if on_cpu else None] = None
    worth = timed_s >= _WORTH_S
    found = {}
    for device, count in keys:
        ceilings = stored_ceilings(environment, device, count, say)
        doubtful = ceilings is None or bool(ceilings.disturbed)
        if doubtful and worth and deadline.opening_left_s() >= _LEFT_S:
            ceilings = _measured(environment, device, count, say) or ceilings
        if ceilings is not None:
            found[device, count] = ceilings
    return Limits(found)


def _measured(
    environment: Environment, device: Device, threads: int | None, say: Callable[[str], None]
) -> MachineCeilings | None:
    meter = Meter()
    before = meter.read()
    time.sleep(_LOOK_S)
    if disturbances := meter.since(before).disturbances(threads or 1):
        say(f"the ceilings are not measured: {disturbances[0]}")
        return None
    say("measuring this machine's ceilings")
    try:
        return measured_ceilings(environment, device, threads, say)
    except SessionFailed as exc:
        say(str(exc))
        return None
