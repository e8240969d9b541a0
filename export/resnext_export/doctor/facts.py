"""What several checks ask about this machine, each asked once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from resnext.machine import cuda_driver

from .child import Died, Examine, examine
from .requirements import MODULES, Needed, needed

#: How long the import of one module may take, seconds.
_IMPORT_S = 120.0


@dataclass(frozen=True)
class Facts:
    """The machine as the checks see it; tests pass other values.

    Attributes:
        root: of the kernel's files.
        environ: environment variables.
        examine: asks a child process.
    """

    root: Path = Path("/")
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    examine: Examine = examine

    @cached_property
    def driver(self) -> cuda_driver.Driver:
        """The CUDA driver's answers."""
        return cuda_driver.probe_driver()

    @cached_property
    def installed(self) -> Mapping[str, Distribution]:
        """Installed distributions by normalized name; of several copies, the first on the path."""
        seen: dict[str, Distribution] = {}
        for distribution in distributions():
            name = distribution.metadata["Name"] if distribution.metadata else None
            if name:
                seen.setdefault(canonicalize_name(name), distribution)
        return seen

    @cached_property
    def needed(self) -> tuple[Needed, ...]:
        """What the toolkit requires on this platform, extras included."""
        return needed()

    @cached_property
    def modules(self) -> Mapping[str, Any]:
        """Each required module that is installed, imported in a child process: a dict with
        ``version`` and ``file``, or with ``error``; or a `Died`.
        """
        names = dict.fromkeys(
            MODULES.get(each.name, each.name.replace("-", "_"))
            for each in self.needed
            if each.name in self.installed
        )
        return dict(self.examine(f"{__package__}.importing", list(names), timeout_s=_IMPORT_S))

    def module(self, name: str) -> Mapping[str, Any]:
        """The answer about one module; empty if it is not installed or does not load."""
        answer = self.modules.get(name)
        return {} if answer is None or isinstance(answer, Died) else dict(answer)
