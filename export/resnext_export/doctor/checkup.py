"""All checks, by area."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from resnext.errors import ResnextError, first_line
from resnext.machine.faults import environment_fault

from .compilers import check_compiler
from .facts import Facts
from .folders import check_cache, check_home, check_shared_memory, check_temporary
from .gpu import check_cuda_versions, check_driver, check_ort_libraries
from .network import check_network
from .observation import Observation, problem
from .packages import check_extras, check_imports, check_owners, check_versions
from .processor import check_features, check_memory, check_threads
from .python import check_encoding, check_interpreter, check_libc, check_shadowing
from .runtimes import check_runtimes


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        area: heading of its lines.
        run: yields its lines.
    """

    area: str
    run: Callable[[Facts], Iterator[Observation]]


#: All checks by name, in the order of the report: areas, then cheap before slow.
CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        "interpreter": Check("Python", check_interpreter),
        "C library": Check("Python", check_libc),
        "encoding": Check("Python", check_encoding),
        "shadowing": Check("Python", check_shadowing),
        "versions": Check("Packages", check_versions),
        "extras": Check("Packages", check_extras),
        "imports": Check("Packages", check_imports),
        "owners": Check("Packages", check_owners),
        "threads": Check("Processor", check_threads),
        "memory": Check("Processor", check_memory),
        "features": Check("Processor", check_features),
        "temporary": Check("Folders", check_temporary),
        "cache": Check("Folders", check_cache),
        "home": Check("Folders", check_home),
        "shared memory": Check("Folders", check_shared_memory),
        "variables": Check("Network", check_network),
        "compiler": Check("Compiler", check_compiler),
        "driver": Check("GPU", check_driver),
        "CUDA": Check("GPU", check_cuda_versions),
        "ORT libraries": Check("GPU", check_ort_libraries),
        "runtimes": Check("Runtimes", check_runtimes),
    }
)


def checkup(facts: Facts | None = None) -> Iterator[tuple[str, Iterator[Observation]]]:
    """Every check's name, and its lines as it finds them; nothing runs before it is asked."""
    facts = facts or Facts()
    for name, check in CHECKS.items():
        yield name, _whole(check, facts)


def _whole(check: Check, facts: Facts) -> Iterator[Observation]:
    """The lines of a check; its own failure is one of them, and ends no other."""
    try:
        yield from check.run(facts)
    except Exception as exc:
        fault = exc if isinstance(exc, ResnextError) else environment_fault(exc)
        if fault is None:
            yield problem("check-failed", f"this could not be checked: {first_line(exc)}")
        else:
            yield problem("check-failed", f"this could not be checked: {fault.message}", fault.hint)
