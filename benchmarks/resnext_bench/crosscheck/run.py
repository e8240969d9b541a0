"""Both sides in turns, round by round."""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from resnext.artifact.files import Artifact
from resnext.artifact.graph import onnx_graph
from resnext.errors import BadInput, ResnextError, SilentFallback, UsageError
from resnext.machine.environment import record_environment
from resnext.machine.load import Meter
from resnext.machine.nvml import open_nvml
from resnext.machine.threads import thread_budget
from resnext.precision import PRECISIONS, QUANTIZED
from resnext.timing.interleave import shuffled

from .comparison import Comparison, Crosscheck, Round, quiet, ratio_of, verdict_of
from .ours import opened
from .process import run_tool
from .setup import Hint, Setup, Visit
from .tool import Tool
from .tools import chosen

#: Rounds that are tried for each one that is to count.
_TRIES = 2


def crosscheck(
    artifact: Artifact,
    *,
    tool: str | None = None,
    batch: int = 1,
    hints: Sequence[Hint] = ("latency",),
    threads: int | None = None,
    rounds: int = 8,
    duration_s: int = 2,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[Crosscheck, list[ResnextError]]:
    """Time the artifact by this toolkit and by the peers' own tools, in turns.

    Args:
        artifact: the file that both sides run.
        tool: key of `TOOLS`; None means every one that is here and can run it.
        batch: images in one run.
        hints: one comparison for each; a tool that knows only one is compared with that.
        threads: CPU threads of each side; None means the thread budget.
        rounds: undisturbed rounds to reach; at most twice as many are tried.
        duration_s: whole seconds of each visit.
        say: called with a line at every round.

    Returns:
        The comparisons, and the errors of the tools that could not be compared.

    Raises:
        UsageError: no tool can run the artifact with these hints.
        MissingRequirement: no tool is installed.
        BadInput: the artifact does not take the batch.
    """
    if rounds < 1 or duration_s < 1 or batch < 1:
        raise UsageError("`rounds`, `duration` and `batch` must be at least 1")
    tools = chosen(artifact, tool)
    pairs = [(each, hint) for each in tools for hint in hints if hint in each.hints]
    if not pairs:
        names = ", ".join(each.name for each in tools)
        raise UsageError(f"{names} measures latency alone", hint="drop `hint`")
    if not artifact.manifest.takes(batch):
        raise BadInput(
            f"{artifact.path} takes batch {artifact.manifest.batches()}, not {batch}",
            hint="use a `batch` that it takes",
        )
    with open_nvml() as nvml:
        environment = record_environment(nvml)
    comparisons, errors = [], []
    with tempfile.TemporaryDirectory() as files, tempfile.TemporaryDirectory() as reports:
        path = _loadable(artifact, Path(files))
        for each, hint in pairs:
            setup = _setup(artifact, each, hint, path, Path(reports), batch, threads, duration_s)
            try:
                comparisons.append(_compare(artifact, each, setup, rounds, say))
            except ResnextError as exc:
                errors.append(exc)
    record = Crosscheck(
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        artifact_sha256=artifact.manifest.file_sha256,
        precision=artifact.manifest.precision,
        environment=environment,
        comparisons=tuple(comparisons),
    )
    return record, errors


def _compare(
    artifact: Artifact, tool: Tool, setup: Setup, rounds: int, say: Callable[[str], None]
) -> Comparison:
    """All rounds of one tool.

    Raises:
        SilentFallback: the tool ran something else than we do.
        ResnextError: a side failed.
    """
    meter, order, done = Meter(), shuffled(0), list[Round]()
    told: dict[str, str] = {}
    with opened(artifact, tool, setup) as ours:
        while len(quiet(done)) < rounds and len(done) < _TRIES * rounds:
            say(f"{tool.name}, {setup.hint}: {len(quiet(done))} of {rounds} quiet rounds")
            times, disturbances = dict[str, float](), dict[str, None]()
            for side in order(("ours", "theirs"), len(done)):
                before = meter.read()
                if side == "ours":
                    times[side] = ours.run_ns(setup.duration_s)
                else:
                    visit = visit_tool(tool, setup)
                    times[side], told = visit.run_ns, visit.facts
                load = meter.since(before)  # of a tool, which has ended, the time is our children's
                disturbances |= dict.fromkeys(load.disturbances(setup.threads))
            done.append(
                Round(
                    ours_ns=times["ours"],
                    theirs_ns=times["theirs"],
                    disturbances=tuple(disturbances),
                )
            )
    ratio = ratio_of(done)
    return Comparison(
        tool=tool.name,
        backend=tool.backend,
        boundary=tool.boundary,
        hint=setup.hint,
        batch=setup.shape[0],
        threads=setup.threads,
        streams=setup.streams,
        told=told,
        rounds=tuple(done),
        ratio=None if ratio is None else tuple(ratio),
        verdict=verdict_of(ratio),
    )


def visit_tool(tool: Tool, setup: Setup) -> Visit:
    """Run ``tool`` once, and check that it ran what ``setup`` says.

    Raises:
        SessionFailed: it failed, or its output cannot be read.
        SilentFallback: it ran something else.
    """
    for path in setup.folder.iterdir():  # a report of an earlier visit must not be read again
        path.unlink()
    program = tool.program()
    assert program is not None, "chosen() has checked it"
    output = run_tool(tool.name, tool.command(program, setup), setup.duration_s, setup.folder)
    try:
        visit = tool.read(output, setup)
    except ResnextError as exc:
        raise type(exc)(f"{tool.name}: {exc.message}", hint=f"try {program} by hand") from exc
    wanted = setup.facts
    unlike = [
        f"{fact} {visit.facts.get(fact, 'unknown')} instead of {wanted[fact]}"
        for fact in tool.told
        if wanted[fact] and visit.facts.get(fact) != wanted[fact]
    ]
    if unlike:
        raise SilentFallback(f"{tool.name} is not comparable: it ran with {', '.join(unlike)}")
    return visit


def _setup(
    artifact: Artifact,
    tool: Tool,
    hint: Hint,
    path: Path,
    folder: Path,
    batch: int,
    threads: int | None,
    duration_s: int,
) -> Setup:
    manifest = artifact.manifest
    (spec,) = manifest.inputs
    on_gpu = tool.boundary == "device"
    count = 1 if on_gpu else threads or thread_budget().count
    free = ""
    if manifest.kind == "onnx":
        (first, *_) = onnx_graph(artifact).graph.input[0].type.tensor_type.shape.dim
        free = first.dim_param
    precision = manifest.precision
    return Setup(
        path=path,
        folder=folder,
        input_name=spec.name,
        input_dtype=spec.dtype,
        shape=(batch, *(size or batch for size in spec.shape[1:])),
        free_dimension=free,
        compute_dtype="float32" if precision in QUANTIZED else PRECISIONS[precision].weight_dtype,
        hint=hint,
        threads=count,
        streams=count if hint == "throughput" else 1,
        duration_s=duration_s,
        cuda_graph=on_gpu,
        version=_version(tool),
    )


def _version(tool: Tool) -> str:
    """Of our runtime, if the tool may come with another one."""
    if tool.backend != "openvino":
        return ""
    from resnext.runtimes.openvino.library import VERSION

    return str(VERSION)


def _loadable(artifact: Artifact, folder: Path) -> Path:
    """The artifact's file in ``folder``, checked while it is copied; a packed IR is unpacked.

    Raises:
        BadArtifact: it was altered, or is not what its manifest says.
    """
    if artifact.manifest.kind != "openvino":
        return artifact.copy_to(folder)
    from resnext.runtimes.openvino.ir import GRAPH_NAME, WEIGHTS_NAME, unpack_ovir

    graph, weights = unpack_ovir(artifact.read_writable(), str(artifact.path))
    (folder / GRAPH_NAME).write_bytes(graph)
    (folder / WEIGHTS_NAME).write_bytes(weights.tobytes())
    return folder / GRAPH_NAME
