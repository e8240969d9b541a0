"""The machine, and the software on it."""

from __future__ import annotations

from collections.abc import Mapping

from resnext.machine.environment import Environment
from resnext_bench.page.document import Section
from resnext_bench.page.markup import tag
from resnext_bench.record import RunRecord
from resnext_bench.report import threads


def section(run: RunRecord) -> Section | None:
    """What the numbers hold for."""
    weights = run.weights
    harness = "" if run.harness_ns is None else f"adds {run.harness_ns / 1e3:.2f} us to a run"
    facts = {
        "threads": threads(run).partition(": ")[2] and threads(run),
        "harness": harness,
        "weights": f"{weights.source}, sha256 {weights.sha256}",
        "seed": str(run.seed),
        "from the cache": "; ".join(run.reused),
    }
    return listed(run.environment, facts)


def listed(environment: Environment, facts: Mapping[str, str]) -> Section:
    """Machine and software, with further ``facts``; those without a text are left out."""
    known = {
        "processor": f"{environment.cpu}, {environment.physical_cores} cores",
        "GPU": ", ".join(gpu.name for gpu in environment.gpus),
        "memory": f"{environment.memory_bytes / 2**30:.0f} GiB",
        "threads": "",
        "system": f"{environment.system}, Python {environment.python}",
        "load at the start": f"{environment.load_1min:.2f}",
        "governor": environment.governor or "",
        "harness": "",
        "packages": ", ".join(f"{name} {text}" for name, text in environment.packages.items()),
        **facts,
    }
    items = [tag("div", tag("dt", name), tag("dd", text)) for name, text in known.items() if text]
    return Section("machine", "Machine", tag("dl", *items, class_="plain"))
