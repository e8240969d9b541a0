"""Groups of a plan, run by a crew."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from resnext.cluster.crew import Crew
from resnext.cluster.dispatch import PATIENCE_S, dispatch
from resnext.cluster.local import HERE, LocalCrew
from resnext.cluster.ray_connection import connected
from resnext.cluster.ray_crew import RayCrew
from resnext.cluster.units import Unit

from .placement import Machine, places_for, this_machine
from .plan_file import Group, PlanFile
from .results import Loss, Results

_RUNNER = "resnext_bench.fleet.cells:runner"
_PROBER = "resnext_bench.fleet.placement:prober"


def run_groups(
    results: Results,
    groups: Sequence[Group],
    crew: Crew,
    machines: Mapping[str, Machine],
    *,
    patience_s: float = PATIENCE_S,
    say: Callable[[str], None] = lambda _: None,
) -> list[Loss]:
    """Measure what ``results`` lack of ``groups``.

    Args:
        results: where runs go, each as soon as it is there.
        groups: of the plan.
        crew: one worker on each machine.
        machines: by place.
        patience_s: silence after which a worker is ended, seconds.
        say: called with one line at every step.

    Returns:
        Groups that failed or were lost.

    Raises:
        MissingRequirement: no machine has what a group asks for, or results cannot be written.
    """
    units = [
        unit for group in groups for unit in units_of(group, machines) if not results.has(unit.id)
    ]
    planned = {group.id for group in groups}
    for unit in units:
        if unit.id not in planned:  # for one kind of machine
            results.expect(unit.id)
    losses = []
    for settled in dispatch(units, crew, patience_s=patience_s, doing="groups", say=say):
        loss = results.keep(settled)
        if loss is not None:
            losses.append(loss)
            say(f"{loss.status} {loss.name}: {loss.reason}")
    return losses


def units_of(group: Group, machines: Mapping[str, Machine]) -> Iterator[Unit]:
    """``group`` for any machine that may have it, or once for each kind of them.

    Raises:
        MissingRequirement: none may.
    """
    places = places_for(group.on, machines) if group.on or group.each else None
    if not group.each or places is None:
        yield Unit(group.id, group.arguments, places)
        return
    kinds: dict[str, set[str]] = {}
    for place in sorted(places):
        kinds.setdefault(machines[place].kind, set()).add(place)
    for kind, alike in kinds.items():
        yield Unit(f"{group.id}-{kind}", group.arguments, frozenset(alike))


@contextmanager
def crew_here(plan: PlanFile) -> Iterator[tuple[Crew, Mapping[str, Machine]]]:
    """A worker on this machine."""
    with LocalCrew(1, _RUNNER, _arguments(plan), depth=1) as crew:
        yield crew, {HERE: this_machine()}


@contextmanager
def crew_of_ray(
    plan: PlanFile, address: str, say: Callable[[str], None]
) -> Iterator[tuple[Crew, Mapping[str, Machine]]]:
    """A worker on each machine of a Ray cluster, which has the whole machine.

    Raises:
        ResnextError: as `resnext.cluster.ray_connection.connected`.
    """
    crew = RayCrew(address, _RUNNER, _arguments(plan), cpus=None, depth=1)
    with connected(address), crew:
        places = sorted(set(crew.slots().values()))
        units = [Unit(place, None, frozenset({place})) for place in places]
        machines: dict[str, Machine] = {}
        with RayCrew(address, _PROBER, cpus=0, a_node=1) as probes:
            for settled in dispatch(units, probes, doing="machines", say=say):
                if settled.receipt is None:
                    say(f"{settled.place} is left out: {settled.lost or settled.error}")
                else:
                    machines[settled.unit.id] = settled.receipt
        yield crew, machines


def _arguments(plan: PlanFile) -> tuple[object, ...]:
    paths = tuple(record.path for record in plan.parcels)
    return (paths, *(record.parcel() for record in plan.parcels))
