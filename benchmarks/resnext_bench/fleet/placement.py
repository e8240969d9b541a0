"""Machines, and which of them a group may run on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from resnext.errors import MissingRequirement, UnknownName, UsageError
from resnext.machine.environment import Environment, cpu_features, record_environment
from resnext.machine.nvml import open_nvml

#: What can be asked of a machine.
KEYS = ("isa", "cpu", "gpu", "cores", "kind")
#: Extensions of processors that are listed, in the kernel's names.
_ISA = ("amx_int8", "amx_bf16", "avx512_bf16", "avx512_vnni", "avx512f", "avx2", "asimd")
_DIGITS = 8


@dataclass(frozen=True)
class Machine:
    """What a group can ask for.

    Attributes:
        title: the machine in one line.
        kind: digest of processor, cores and GPUs: machines of one kind are compared.
        labels: values by key.
    """

    title: str
    kind: str
    labels: Mapping[str, tuple[str, ...]]

    def has(self, wanted: str) -> bool:
        """Whether it has ``KEY=VALUE``: ``VALUE`` is a part of one of its values, in any case of
        letters; numbers are equal.
        """
        key, _, value = wanted.partition("=")
        found = self.labels[key]
        if key == "cores":
            return value in found
        return any(value.lower() in one.lower() for one in found)

    def told(self) -> str:
        """Its labels in one line."""
        return "; ".join(f"{key}={', '.join(values)}" for key, values in self.labels.items())


def kind_of(environment: Environment) -> str:
    """Digest of what makes two machines one kind."""
    gpus = [gpu.name for gpu in environment.gpus]
    whole = "\n".join([environment.cpu, str(environment.physical_cores), *gpus])
    return hashlib.sha256(whole.encode()).hexdigest()[:_DIGITS]


def prober() -> Callable[[object], Machine]:
    """A worker that says what its machine is."""
    return lambda _: this_machine()


def this_machine() -> Machine:
    """The machine that this process runs on."""
    with open_nvml() as nvml:
        environment = record_environment(nvml)
    features = cpu_features()
    labels = {
        "isa": tuple(name for name in _ISA if name in features) or ("none",),
        "cpu": (environment.cpu,),
        "gpu": tuple(dict.fromkeys(gpu.name for gpu in environment.gpus)) or ("none",),
        "cores": (str(environment.physical_cores),),
        "kind": (kind_of(environment),),
    }
    return Machine(environment.title(), kind_of(environment), labels)


def check_wanted(wanted: Sequence[str]) -> None:
    """Check what is asked of machines.

    Raises:
        UsageError: it is not ``KEY=VALUE``, or the key is unknown.
    """
    for one in wanted:
        key, equals, value = one.partition("=")
        if not equals or not value:
            raise UsageError(f"`on` {one!r} is not KEY=VALUE, for example gpu=H100, or each")
        if key not in KEYS:
            raise UnknownName("label", key, KEYS)


def places_for(wanted: Sequence[str], machines: Mapping[str, Machine]) -> frozenset[str]:
    """Places of the machines that have all that is wanted.

    Raises:
        MissingRequirement: none has; the message lists what they have.
    """
    found = {
        place for place, machine in machines.items() if all(machine.has(one) for one in wanted)
    }
    if not found:
        kinds = dict.fromkeys(machine.told() for machine in machines.values())
        raise MissingRequirement(
            f"no machine has {' and '.join(wanted)}; there are: {' | '.join(kinds) or 'none'}"
        )
    return frozenset(found)
