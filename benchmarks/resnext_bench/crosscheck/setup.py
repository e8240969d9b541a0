"""What both sides of a comparison run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

#: ``latency``: one request at a time; ``throughput``: as many requests in flight as streams.
Hint = Literal["latency", "throughput"]


@dataclass(frozen=True)
class Setup:
    """One comparison.

    Attributes:
        path: the file for the tool: the artifact's own, or the graph of a packed IR.
        folder: for the tool's reports; empty before each visit.
        input_name: name of the network's input.
        input_dtype: NumPy's name of its type.
        shape: of one input batch, N x C x H x W.
        free_dimension: name of the dynamic batch dimension in the file; empty if it is static.
        compute_dtype: NumPy's name of the type that float layers compute in.
        hint: latency or throughput.
        threads: CPU threads, of all streams together.
        streams: requests in flight at once.
        duration_s: measured seconds of a visit, whole ones.
        cuda_graph: our side replays a CUDA graph.
        version: of our runtime; empty if the tool's is not compared.
    """

    path: Path
    folder: Path
    input_name: str
    input_dtype: str
    shape: tuple[int, ...]
    free_dimension: str
    compute_dtype: str
    hint: Hint
    threads: int
    streams: int
    duration_s: int
    cuda_graph: bool = False
    version: str = ""

    @property
    def facts(self) -> dict[str, str]:
        """What a tool must report of its side, if it reports it: anything else is unlike."""
        return {
            "file": str(self.path),
            "shape": times(self.shape),
            "input": self.input_dtype,
            "threads": str(self.threads),
            "streams": str(self.streams),
            "precision": self.compute_dtype,
            "version": self.version,
            "CUDA graph": str(self.cuda_graph),
        }


@dataclass(frozen=True)
class Visit:
    """What a tool reported.

    Attributes:
        run_ns: nanoseconds of one run, mean over the visit.
        runs: number of measured runs.
        facts: as in `Setup.facts`, those that the tool tells.
    """

    run_ns: float
    runs: int
    facts: dict[str, str]


def times(shape: tuple[int, ...]) -> str:
    """``8x3x224x224``."""
    return "x".join(map(str, shape))
