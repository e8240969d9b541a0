"""A crew of actors on a Ray cluster."""

from __future__ import annotations

import itertools
import pickle
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from typing_extensions import Self

from resnext.errors import BadInput, first_line
from resnext.version import __version__

from .crew import Answer, Beat, Ended, Event, Ready
from .parcels import Parcel
from .ray_connection import connected
from .ray_worker import RayWorker
from .worker import error_of

#: How often to look at the nodes, and to ask a worker for a sign of life, seconds.
_LOOK_S, _PULSE_S = 2.0, 1.0
#: How long the bytes of a receipt may take to come, seconds.
_FETCH_S = 120.0


@dataclass
class _Actor:
    handle: Any
    #: What is to come: id of a unit, "" for the greeting, None for a sign of life.
    awaited: dict[Any, str | None] = field(default_factory=dict)
    beats: int = 0
    pulsed: float = 0.0


class RayCrew:
    """Actors, each with a worker that ``factory`` makes on its node.

    Every actor is bound to its node, so that its place is known; nodes that join later get actors,
    too. An actor is never restarted by Ray: the dispatcher knows better which unit to give back.

    Args:
        address: as in `resnext.cluster.ray_connection.connected`.
        factory: ``module:function`` of the function that makes a worker on its node: a callable
            that takes a unit's payload and returns its receipt. The toolkit is installed there in
            the same version, or the node is refused.
        args: of the factory; can be pickled. A `Parcel` among them is sent once to each node,
            checked there, and given to the factory as its path there.
        cpus: of each worker; None for all CPUs and GPUs of its node, so that nothing else of Ray's
            runs beside it; threads and priority are then those of a process beside Ray.
        gpus: of each worker, if ``cpus`` is a number.
        count: most workers in all; None for all that fit.
        a_node: most workers on a node; None for all that fit.
        depth: units that a worker does at once, each on a thread, if it overlaps them.
    """

    def __init__(
        self,
        address: str,
        factory: str,
        args: tuple[Any, ...] = (),
        *,
        cpus: float | None = 1.0,
        gpus: float = 0.0,
        count: int | None = None,
        a_node: int | None = None,
        depth: int = 1,
    ) -> None:
        self.depth = depth
        self._address, self._factory, self._args = address, factory, args
        self._cpus, self._gpus, self._count = cpus, gpus, count
        self._a_node = 1 if cpus is None else a_node
        self._actors: dict[str, _Actor] = {}
        self._nodes: dict[str, dict[str, Any]] = {}
        self._looked = -_LOOK_S
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._ray = ray = self._stack.enter_context(connected(self._address))
            self._pickled = pickle.dumps(self._args)
            parcels = [arg for arg in self._args if isinstance(arg, Parcel)]
            self._contents = [ray.put(parcel.contents()) for parcel in parcels]
            self._class = ray.remote(concurrency_groups={"pulse": 1})(RayWorker)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        for slot in list(self._actors):
            self.stop(slot)
        self._stack.close()

    def slots(self) -> Mapping[str, str]:
        """Slots of the nodes that are alive: as many on each as its resources allow."""
        slots = {
            f"{place} {number}": place
            for place, node in self.nodes().items()
            for number in range(self._fit(node))
        }
        return dict(itertools.islice(slots.items(), self._count))

    def nodes(self) -> Mapping[str, Mapping[str, Any]]:
        """The nodes that are alive, as Ray describes them, by place."""
        if time.monotonic() - self._looked >= _LOOK_S:
            self._nodes = {
                f"{node['NodeManagerAddress']}/{node['NodeID'][:6]}": node
                for node in self._ray.nodes()
                if node["Alive"]
            }
            self._looked = time.monotonic()
        return self._nodes

    def start(self, slot: str) -> None:
        """Start an actor on the node of ``slot``, and greet it."""
        node = self.nodes()[slot.rpartition(" ")[0]]
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        cpus, gpus = self._asked(node)
        handle = self._class.options(
            num_cpus=cpus,
            num_gpus=gpus,
            max_concurrency=self.depth,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        ).remote(self._cpus is None)
        self._actors[slot] = actor = _Actor(handle)
        greeting = handle.hello.remote(__version__, self._factory, self._pickled, *self._contents)
        actor.awaited[greeting] = ""

    def give(self, slot: str, id: str, payload: Any) -> None:
        """Call the actor of ``slot`` with a unit."""
        actor = self._actors[slot]
        try:
            actor.awaited[actor.handle.do.remote(payload)] = id
        except Exception as exc:
            raise BadInput(f"cannot send a unit to a worker: {first_line(exc)}") from exc

    def stop(self, slot: str) -> None:
        """Kill the actor of ``slot``."""
        actor = self._actors.pop(slot)
        self._ray.kill(actor.handle, no_restart=True)

    def wait(self, timeout_s: float) -> Sequence[Event]:
        """What actors say next."""
        self._ask_for_signs_of_life()
        slots = {ref: slot for slot, actor in self._actors.items() for ref in actor.awaited}
        if not slots:
            time.sleep(min(timeout_s, _LOOK_S))
            return []
        said, _ = self._ray.wait(list(slots), num_returns=1, timeout=min(timeout_s, _PULSE_S))
        return [event for ref in said for event in self._said(slots[ref], ref)]

    def missing(self) -> str:
        """Resources that the slots still wait for, or that no node has."""
        if not self.nodes():
            return "no node of the cluster is alive"
        free = self._free()
        for slot, actor in self._actors.items():
            place = slot.rpartition(" ")[0]
            if "" in actor.awaited.values() and place in self.nodes():
                node = self.nodes()[place]
                cpus, gpus = self._asked(node)
                have = free.get(node["NodeID"], {})
                return (
                    f"a worker on {place} asks for {_amounts(cpus, gpus)}; free there are"
                    f" {_amounts(have.get('CPU', 0), have.get('GPU', 0))} of"
                    f" {_amounts(*_resources(node))}"
                )
        if not self.slots():
            has = ", ".join(
                f"{place}: {_amounts(*_resources(node))}" for place, node in self.nodes().items()
            )
            return f"a worker needs {_amounts(self._cpus or 1, self._gpus)}; {has}"
        return ""

    def _fit(self, node: Mapping[str, Any]) -> int:
        cpus, gpus = _resources(node)
        if self._cpus is None:
            return int(cpus >= 1)
        fits = [int(has // asks) for has, asks in ((cpus, self._cpus), (gpus, self._gpus)) if asks]
        return min([*fits, *([] if self._a_node is None else [self._a_node])], default=1)

    def _asked(self, node: Mapping[str, Any]) -> tuple[float, float]:
        return _resources(node) if self._cpus is None else (self._cpus, self._gpus)

    def _free(self) -> Mapping[str, Mapping[str, float]]:
        try:
            state: Any = import_module("ray._private.state")
            free: Mapping[str, Mapping[str, float]] = state.available_resources_per_node()
        except Exception:  # not part of Ray's public interface
            return {}
        return free

    def _ask_for_signs_of_life(self) -> None:
        now = time.monotonic()
        for actor in self._actors.values():
            working = any(id for id in actor.awaited.values())
            asked = None in actor.awaited.values()
            if working and not asked and now - actor.pulsed >= _PULSE_S:
                pulse = actor.handle.pulse.options(concurrency_group="pulse").remote()
                actor.awaited[pulse], actor.pulsed = None, now

    def _said(self, slot: str, ref: Any) -> Iterator[Event]:
        actor = self._actors[slot]
        what = actor.awaited.pop(ref)
        try:
            answer = self._ray.get(ref, timeout=_FETCH_S)
        except self._ray.exceptions.RayError as exc:
            self.stop(slot)
            yield Ended(slot, ray_reason(exc))
            return
        if what is None:
            beats, line = answer
            if beats != actor.beats:
                actor.beats = beats
                yield Beat(slot, line)
        elif what == "":
            if answer is None:
                yield Ready(slot)
                return
            self.stop(slot)
            error = error_of(answer)
            yield Ended(slot, str(error), error)
        else:
            receipt, failure = answer
            yield Answer(slot, what, receipt, failure and error_of(failure))


def ray_reason(error: BaseException) -> str:
    """Why an actor is lost, in one line: Ray's words without its ids."""
    words = re.sub(r"The actor [0-9a-f]+ is unavailable: ", "", str(error))
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    told = [line for line in lines if not re.match(r"(class_name|actor_id|namespace|pid):", line)]
    # The first line says that the actor died, a later one why.
    why = [line for line in told[1:] if re.search(r"died|dead|killed|lost|crash", line)]
    return f"{type(error).__name__}: {first_line((why or told or [''])[0])[:300]}"


def _resources(node: Mapping[str, Any]) -> tuple[float, float]:
    has = node["Resources"]
    return has.get("CPU", 0.0), has.get("GPU", 0.0)


def _amounts(cpus: float, gpus: float) -> str:
    parts = [f"{cpus:g} CPU"] + ([f"{gpus:g} GPU"] if gpus else [])
    return " and ".join(parts)
