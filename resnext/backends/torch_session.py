"""PyTorch, eager or compiled, on CPU or CUDA. The reference of every parity check is a `reference_logits` from here."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import MissingRequirement, SessionFailed, SilentFallback
from ..session import Arrays, Delivered, DeliveredLayer, Session, TensorSpec
from ..weights import Weights, load_model
from . import SessionOptions

_TRIALS = 3
#: Runs of one trial on CUDA, where a single launch is too short for the host's clock.
_CUDA_TRIAL_RUNS = 10
#: How much faster channels-last must be to be taken: a trial is short, and nchw is what everybody expects.
_WORTHWHILE = 0.97
_RECOMPILE_LIMIT = 1024
_OPS = {"conv2d": "Conv", "linear": "Gemm", "Conv2d": "Conv", "Linear": "Gemm"}


def open_session(subject: Weights, options: SessionOptions, name: str) -> TorchSession:
    """Open eager PyTorch (``torch``) or Inductor (``torch-compile``).

    Raises:
        MissingRequirement: no CUDA device, or a PyTorch build without CUDA, though CUDA was asked for.
    """
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise MissingRequirement(
            f"PyTorch {torch.__version__} cannot use this machine's CUDA device; install a CUDA build of torch "
            "(pytorch.org, Get Started), or use --device cpu"
        )
    if device == "cuda":
        from .torch_cuda_session import CudaTorchSession

        return CudaTorchSession(subject, options, name, torch.device(device))
    return TorchSession(subject, options, name, torch.device(device))


def reference_logits(weights: Weights, images: NDArray[np.float32], dtype: torch.dtype = torch.float64) -> NDArray[Any]:
    """Eager PyTorch on the CPU, the reference that candidates are held against.

    Args:
        weights: the network.
        images: N x C x H x W, preprocessed.
        dtype: precision that weights and arithmetic are promoted to.

    Returns:
        N x classes, of ``dtype``; float32 for bfloat16, which NumPy has not.
    """
    model = load_model(weights).to(dtype)
    with torch.inference_mode():
        # A few at a time: float64 activations of a large batch would not fit a small machine.
        parts = [model(torch.from_numpy(images[start : start + 8]).to(dtype)) for start in range(0, len(images), 8)]
    joined = torch.cat(parts)
    logits: NDArray[Any] = (joined.float() if dtype == torch.bfloat16 else joined).numpy()
    return logits


class TorchSession(Session):
    """The network on a CPU, through PyTorch; `CudaTorchSession` is the same on CUDA."""

    def __init__(self, weights: Weights, options: SessionOptions, name: str, device: torch.device) -> None:
        config = weights.config
        self.backend = name
        self.inputs = (TensorSpec(name="input", dtype="float32", shape=(None, config.in_channels, *config.input_size)),)
        self.outputs = (TensorSpec(name="logits", dtype="float32", shape=(None, config.num_classes)),)
        self._device = device
        self._options = options
        if device.type == "cpu" and options.threads is not None:
            torch.set_num_threads(options.threads)
        self._dtype = DTYPES[options.precision]
        self._model = load_model(weights).to(device, self._dtype)
        self._forward: Callable[[Tensor], Tensor] = self._model
        self._graphs: list[torch.fx.GraphModule] = []
        self._format: torch.memory_format | None = _FORMATS[options.memory_format]
        self._trial_ms: dict[str, float] = {}
        self._bound: Tensor | None = None
        self._result: Tensor | None = None
        if name == "torch-compile":
            self._forward = self._compiled()
        if self._format is not None:
            _set_format(self._model, self._format)

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Copy in, run, copy out."""
        self.check_inputs(inputs)
        with torch.inference_mode(), Translated(self.backend):
            images = self._place(torch.from_numpy(inputs["input"]))
            logits = self._forward(images).float().cpu().numpy()
        return {"logits": logits}

    def bind(self, inputs: Arrays) -> None:
        """Place the input, choose the memory format, compile, and run once."""
        self.check_inputs(inputs)
        with torch.inference_mode(), Translated(self.backend):
            self._bound = self._place(torch.from_numpy(inputs["input"].copy()))
            self._result = self._forward(self._bound)
        self.synchronize()
        self._check_compiled()

    def enqueue(self) -> None:
        """Run over the bound input."""
        with torch.inference_mode():
            self._result = self._forward(self._bound)  # type: ignore[arg-type]  # bind() came first, by contract

    def synchronize(self) -> None:
        """A CPU has nothing pending."""

    def fetch(self) -> dict[str, NDArray[Any]]:
        """A copy of the last logits."""
        if self._result is None:
            raise SessionFailed("nothing is bound; call bind() first")
        return {"logits": self._result.float().cpu().numpy().copy()}

    def delivered(self) -> Delivered:
        """Element type and device of each convolution and the classifier, seen while it ran.

        For ``torch-compile`` these are the nodes of the graphs that Inductor was given; more than one graph means
        that the network was broken into parts.
        """
        layers = self._graph_layers() if self._graphs else self._module_layers()
        notes = {"memory format": "channels-last" if self._format == torch.channels_last else "nchw"}
        if self._device.type == "cpu":
            notes["threads"] = str(torch.get_num_threads())
        notes.update({f"trial {name}": f"{ms:.1f} ms" for name, ms in self._trial_ms.items()})
        if self.backend == "torch-compile":
            notes["graphs"] = str(len(self._graphs))
        return Delivered(self._device_name(), tuple(layers), notes)

    def close(self) -> None:
        """Drop model and buffers."""
        self._bound = self._result = None
        self._graphs = []
        self._forward = self._model = nn.Identity()  # type: ignore[assignment]  # the memory goes with the model

    def _device_name(self) -> str:
        return "cpu"

    def _place(self, images: Tensor) -> Tensor:
        images = images.to(self._device, self._dtype)  # inputs and outputs stay float32, whatever is between
        if self._format is None:
            self._format = self._faster_format(images)
            _set_format(self._model, self._format)
        return images.contiguous(memory_format=self._format)

    def _faster_format(self, images: Tensor) -> torch.memory_format:
        """Time both layouts on the eager model, over ``images``, turn by turn."""
        runs = 1 if self._device.type == "cpu" else _CUDA_TRIAL_RUNS
        took: dict[str, list[float]] = {"nchw": [], "channels-last": []}
        for _ in range(_TRIALS):
            for name, samples in took.items():
                layout = _FORMATS[name]
                assert layout is not None
                _set_format(self._model, layout)
                placed = images.contiguous(memory_format=layout)
                self._model(placed)
                self.synchronize()
                started = time.perf_counter_ns()
                for _ in range(runs):
                    self._model(placed)
                self.synchronize()
                samples.append((time.perf_counter_ns() - started) / runs / 1e6)
        self._trial_ms = {name: min(samples) for name, samples in took.items()}
        faster = self._trial_ms["channels-last"] < self._trial_ms["nchw"] * _WORTHWHILE
        return torch.channels_last if faster else torch.contiguous_format

    def _compiled(self) -> Callable[[Tensor], Tensor]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch's own modules warn of each other
            from torch._inductor.compile_fx import compile_fx

        def inductor(graph: torch.fx.GraphModule, example: list[Tensor]) -> Any:
            self._graphs.append(graph)
            with warnings.catch_warnings():
                # Full float32 was asked for; that TF32 would be faster is no news.
                warnings.filterwarnings("ignore", "TensorFloat32 tensor cores", UserWarning)
                return compile_fx(graph, example)

        # The limit counts compilations of one code object, so over all sessions of the process; past it PyTorch would
        # run eagerly, with a line in a log at most.
        dynamo: Any = torch._dynamo.config
        dynamo.recompile_limit = max(dynamo.recompile_limit, _RECOMPILE_LIMIT)
        dynamo.accumulated_recompile_limit = max(dynamo.accumulated_recompile_limit, _RECOMPILE_LIMIT)
        compiled: Callable[[Tensor], Tensor] = torch.compile(
            self._model, backend=inductor, dynamic=False, fullgraph=True
        )
        return compiled

    def _check_compiled(self) -> None:
        if self.backend == "torch-compile" and not self._graphs:
            raise SilentFallback("torch-compile: nothing was compiled; PyTorch ran the network eagerly")

    def _graph_layers(self) -> list[DeliveredLayer]:
        layers = []
        for node in self._graphs[-1].graph.nodes:
            op = _OPS.get(getattr(node.target, "__name__", str(node.target)))
            value = node.meta.get("example_value")
            if op and isinstance(value, Tensor):
                dtype = str(value.dtype).removeprefix("torch.")
                # The innermost of the modules that the call came from, as ("L['self'].layer1.0.conv1", its class).
                paths = [path.removeprefix("L['self'].") for path, _ in node.meta.get("nn_module_stack", {}).values()]
                layers.append(DeliveredLayer(node.name, op, dtype, value.device.type, tuple(paths[-1:])))
        return layers

    def _module_layers(self) -> list[DeliveredLayer]:
        layers: list[DeliveredLayer] = []
        shape = [1 if size is None else size for size in self.inputs[0].shape]
        with torch.inference_mode():
            probe = self._place(torch.zeros(shape))  # before the hooks: placing may run trials of its own

        def note(name: str, op: str) -> Callable[[nn.Module, Any, Tensor], None]:
            def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
                dtype = str(output.dtype).removeprefix("torch.")
                layers.append(DeliveredLayer(name, op, dtype, output.device.type, (name,)))

            return hook

        hooks = [
            module.register_forward_hook(note(name, _OPS[type(module).__name__]))
            for name, module in self._model.named_modules()
            if type(module).__name__ in _OPS
        ]
        try:
            with torch.inference_mode():
                self._model(probe)
        finally:
            for hook in hooks:
                hook.remove()
        return layers


def _set_format(model: nn.Module, layout: torch.memory_format) -> None:
    """Lay out the convolution weights of ``model`` as ``layout``, in place."""
    model.to(memory_format=layout)  # type: ignore[call-overload]  # torch's stub leaves this form out


#: Element types by precision. TF32 keeps as many bits of mantissa as float16, so that is what it may lose.
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "tf32": torch.float16, "bf16": torch.bfloat16}
_FORMATS = {"auto": None, "nchw": torch.contiguous_format, "channels-last": torch.channels_last}


class Translated:
    """Turn what PyTorch raises into one line."""

    def __init__(self, backend: str) -> None:
        self._backend = backend

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
            raise MissingRequirement(f"{self._backend}: out of memory; use a smaller --batch") from error
        # Not all of PyTorch's own errors derive from RuntimeError.
        if isinstance(error, RuntimeError) or type(error).__module__.startswith("torch."):
            text = str(error).strip()
            if any(sign in f"{type(error).__name__} {text}" for sign in _NO_COMPILER):
                raise MissingRequirement(
                    f"{self._backend} needs a C and C++ compiler: apt-get install g++, or use --backend torch"
                ) from error
            # The compiler's first line only says that it raised; the reason comes next.
            lines = [line for line in text.splitlines() if line.strip() and not line.rstrip().endswith("raised:")]
            raise SessionFailed(f"{self._backend} failed: {lines[0] if lines else type(error).__name__}") from error


#: What PyTorch's compilers say where they find no C or C++ compiler.
_NO_COMPILER = ("InvalidCxxCompiler", "No working C++ compiler", "Failed to find C compiler", "TritonMissing")
