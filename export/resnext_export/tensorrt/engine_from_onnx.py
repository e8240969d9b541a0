"""A TensorRT engine from an ONNX file: one code path for TensorRT 10, TensorRT 11 and TensorRT-RTX.

Precision lives in the ONNX graph: networks are always strongly typed. Nothing here depends on where
    the file came from.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnext.artifact.records import EngineLayer, EngineOptions, LayersFrom
from resnext.errors import EngineRefused, NoKernel, first_line
from resnext.machine.cuda_driver import probe_driver
from resnext.runtimes.trt.layers import layers_from_inspector, layers_from_log
from resnext.runtimes.trt.library import Flavour
from resnext.runtimes.trt.log import Log, captured, shorten

from .progress import BuildWatch, monitor_for, run_cancellable
from .timing_cache import TimingCache

#: What TensorRT says where no kernel serves a layer in the types that the graph gives it.
_NO_KERNEL = re.compile(
    r"(?i)could not find any implementation for node|no implementation|no low-precision \w+ kernel|"
    r"not supported .* strongly"
)
#: What stands before the layer's name in such a line, where it has one.
_BEFORE_NAME = re.compile(r"(?i)\b(?:for|of|failing) (?:node|layer):? ")
#: Layers that are compiled together go by the names of the first and the last.
_TOGETHER = re.compile(r"\{ForeignNode\[(.*?)\.\.\.(.*?)\]\}")


@dataclass(frozen=True)
class BuiltEngine:
    """A finished engine.

    Attributes:
        data: the serialized engine.
        layers: what each layer got.
        layers_from: where that was read.
        warnings: what the library warned of, in short.
        build_s: seconds that parsing and building took.
    """

    data: bytes
    layers: tuple[EngineLayer, ...]
    layers_from: LayersFrom
    warnings: tuple[str, ...]
    build_s: float


def engine_from_onnx(
    onnx_file: Path | bytes,
    flavour: Flavour,
    options: EngineOptions,
    *,
    shapes: Mapping[str, tuple[int | None, ...]],
    name: str = "",
    timing_cache: TimingCache | None = None,
    watch: BuildWatch | None = None,
) -> BuiltEngine:
    """Parse and build.

    Args:
        onnx_file: the model.
        flavour: the library that builds.
        options: what to ask of it.
        shapes: the shape of each input that leaves dimensions open; None stands for the batch.
        name: of the network, kept inside the engine.
        timing_cache: kernel times of earlier builds, read before and added to afterwards; TensorRT
            only.
        watch: takes progress and can cancel.

    Raises:
        UsageError: an option that this library does not have.
        MissingRequirement: the library, or the GPU that it needs, is missing.
        NoKernel: the file does not build for want of a kernel; says for which nodes.
        EngineRefused: the file does not parse or build for another reason; says why, and which
            nodes are to blame.
    """
    flavour.check_can_build(options, probe_driver())
    trt = flavour.load()
    watch = watch or BuildWatch()
    started = time.perf_counter()
    with captured(trt) as (logger, log):
        builder = trt.Builder(logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        _parse(trt, network, logger, onnx_file, log)
        network.name = name
        config = _configured(trt, builder, flavour, options, shapes)
        config.progress_monitor = monitor_for(trt, watch)
        if timing_cache is not None:
            timing_cache.attach(trt, config)
        # The library lets go of Python's lock while it builds, and signals are handled on the main
        # thread only.
        plan = run_cancellable(lambda: builder.build_serialized_network(network, config), watch)
        if plan is None:
            reason = f"{flavour.title} {flavour.version} cannot build the engine: {log.reason()}"
            if nodes := _refused(trt, log, network):
                raise NoKernel(reason, nodes)
            raise EngineRefused(reason, ())
        if timing_cache is not None:
            timing_cache.keep(config)
        data = bytes(plan)
        build_s = time.perf_counter() - started
        layers, source = _layers(trt, flavour, options, data, logger, log)
    warnings = tuple(dict.fromkeys(short for line in log.warnings if (short := shorten(line))))
    return BuiltEngine(data, layers, source, warnings, build_s)


def _parse(trt: Any, network: Any, logger: Any, onnx_file: Path | bytes, log: Log) -> None:
    parser = trt.OnnxParser(network, logger)
    parsed = (
        parser.parse(onnx_file)
        if isinstance(onnx_file, bytes)
        else parser.parse_from_file(str(onnx_file))
    )
    if parsed and network.num_outputs == 0:  # text may pass for a model without a graph
        raise EngineRefused(
            "the file holds no graph with outputs: this is not an ONNX file, or it is cut short", ()
        )
    if parsed:
        return
    found = parser_findings(parser)
    node, operator, reason = found[0] if found else ("", "", log.reason())
    where = f"node {node!r} ({operator}): " if node else ""
    raise EngineRefused(
        f"TensorRT's ONNX parser refuses the file: {where}{reason}",
        tuple(name for name, _, _ in found if name),
    )


def parser_findings(parser: Any) -> tuple[tuple[str, str, str], ...]:
    """(node, operator, reason) of each error of a parser; names are "" where an error is not of one
    node.
    """
    found = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        of_node = error.node() >= 0
        name = (error.node_name() or f"number {error.node()}") if of_node else ""
        reason = _parser_reason(error.desc()).removeprefix(f"{name}: ")
        found.append((name, error.node_operator() if of_node else "", reason))
    return tuple(found)


def _parser_reason(text: str) -> str:
    """The most telling line of a parser's error: one of the library's own messages, or else the
    failed assertion.
    """
    lines = [short for line in text.splitlines() if (short := shorten(line))]
    told = [line for line in lines if not line.startswith(("Invalid Node", "Assertion failed"))]
    first = (told or lines or ["no reason given"])[0]
    if (
        first == "false"
    ):  # all that is said of an operator that the library knows and does not support
        return "TensorRT does not support this operator"
    known = {
        "Plugin not found": (
            "TensorRT does not know this operator, nor is there a plugin of its name"
        ),
        "Failed to import initializer": (
            "weights that lie outside the file are missing, or not in the file's folder"
        ),
        "ParseFromCodedStream": "this is not an ONNX file, or it is cut short",
    }
    return next((plain for said, plain in known.items() if said in first), first)


def _configured(
    trt: Any,
    builder: Any,
    flavour: Flavour,
    options: EngineOptions,
    shapes: Mapping[str, tuple[int | None, ...]],
) -> Any:
    config = builder.create_builder_config()
    config.profiling_verbosity = (
        trt.ProfilingVerbosity.DETAILED
    )  # or nobody could say what each layer got
    if not options.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.tiling_level is not None:
        config.tiling_optimization_level = getattr(
            trt.TilingOptimizationLevel, options.tiling_level.upper()
        )
    if options.strip_weights:
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)
        config.set_flag(trt.BuilderFlag.REFIT)
    flavour.configure(trt, config, options)
    for batch in options.profiles if shapes else ():
        profile = builder.create_optimization_profile()
        for tensor, shape in shapes.items():
            sizes = (batch.min, batch.opt, batch.max)
            try:
                profile.set_shape(
                    tensor, *(tuple(at if size is None else size for size in shape) for at in sizes)
                )
            except (RuntimeError, TypeError) as exc:
                reason = (
                    f"{flavour.title} takes no input {tensor!r} of shape {shape}: {first_line(exc)}"
                )
                raise EngineRefused(reason, ()) from exc
        if config.add_optimization_profile(profile) < 0:
            raise EngineRefused(
                f"{flavour.title} refuses the optimization profile for batch {batch}", ()
            )
    return config


def _refused(trt: Any, log: Log, network: Any) -> tuple[str, ...]:
    """Names of the layers that the library found no kernel for, in the network's order, as far as
    it says.

    Of layers that are compiled together it names the first and the last; any grouped convolution
    between them may be the one. An end that is no layer of the network (the library adds some)
    leaves that side open.
    """
    told = [_BEFORE_NAME.split(line)[-1] for line in log.errors if _NO_KERNEL.search(line)]
    if not told:
        return ()
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    names = [layer.name for layer in layers]
    found = {index for text in told for index in _said(names, text)}
    for first, last in (ends for text in told for ends in _TOGETHER.findall(text)):
        start, stop = _said(names, first) or (0,), _said(names, last) or (len(names) - 1,)
        between = range(min(*start, *stop), max(*start, *stop) + 1)
        found |= {index for index in between if _grouped(trt, layers[index])}
    return tuple(dict.fromkeys(names[index] for index in sorted(found)))


def _said(names: list[str], text: str) -> tuple[int, ...]:
    """Indices of the names that ``text`` holds whole, not as part of a longer name."""
    # A point ends a sentence, or three stand between two names; between letters it is part of a
    # name.
    return tuple(
        index
        for index, name in enumerate(names)
        if name and re.search(rf"(?<![\w/:-])(?<!\w\.){re.escape(name)}(?![\w/:-]|\.\w)", text)
    )


def _grouped(trt: Any, layer: Any) -> bool:
    if layer.type != trt.LayerType.CONVOLUTION:
        return False
    layer.__class__ = trt.IConvolutionLayer  # the network gives every layer as the base class
    return bool(layer.num_groups > 1)


def _layers(
    trt: Any, flavour: Flavour, options: EngineOptions, data: bytes, logger: Any, log: Log
) -> tuple[tuple[EngineLayer, ...], LayersFrom]:
    """From the engine itself where it can be loaded; else from what the builder said of it, if
    anything.
    """
    if probe_driver().problem is None and not options.strip_weights:
        runtime = flavour.runtime(trt, logger, options)
        engine = runtime.deserialize_cuda_engine(data)
        if engine is not None:
            inspector = engine.create_engine_inspector()
            text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
            return layers_from_inspector(text), "inspector"
    if not log.layers:
        return (), "nothing"
    return layers_from_log(log.layers), "build log"
