"""PyTorch modules on streampool. torch is an optional extra: nothing here is imported before somebody asks for it."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ._errors import InternalError, InvalidArgument, Unsupported

if TYPE_CHECKING:
    import torch

    from . import Device, Model

__all__ = ["CompiledModule", "backend", "compile"]

TOLERANCE = 1e-4
"""How far (relative L2) an output may be from the module's before it is an error."""

# ONNX operators of this version are what the exporter writes best.
OPSET = 18

# One at a time: tracing swaps global state of torch.
_EXPORTING = threading.RLock()

# Protocol buffers end at 2 GB: larger weights go into a file beside.
_INLINE_BYTES = 1_500_000_000


def _torch() -> Any:
    try:
        import torch
    except ImportError as e:
        raise Unsupported(
            "compiling a PyTorch module needs PyTorch: pip install 'streampool[torch]'; models in ONNX files need "
            "none of it: streampool.load('model.onnx')"
        ) from e
    return torch


def compile(
    module: torch.nn.Module,
    example_inputs: Any,
    *,
    device: Device | str | None = None,
    dynamic_shapes: Any = None,
    check: bool = True,
) -> CompiledModule:
    """A PyTorch module as a function that any thread may call.

    The module is exported in evaluation mode, with its weights as they are now. The function takes what the
    module takes, and returns what it returns: torch tensors for torch tensors, NumPy arrays for NumPy arrays.
    Results carry no gradients.

    Inputs of other shapes than seen before are exported anew, once, however many threads ask; with
    `dynamic_shapes` one export serves all of them.

    Args:
        module: any `torch.nn.Module` that `torch.onnx.export(dynamo=True)` can export.
        example_inputs: the module's arguments: a tensor, a tuple of positional arguments, or a dict of named ones.
        device: where to run; the default device if None.
        dynamic_shapes: which axes vary, as for `torch.export.export`.
        check: compare the outputs for the example with the module's own.

    Raises:
        Unsupported: torch is not installed, or the module cannot be exported, or has operators that are not
            implemented; all are listed.
        InternalError: an output differs from the module's by more than 1e-4 (relative L2).
    """
    torch = _torch()
    if not isinstance(module, torch.nn.Module):
        raise InvalidArgument(f"compile: the module is a {type(module).__name__}, not a torch.nn.Module")
    args, kwargs = _arguments(example_inputs)
    compiled = CompiledModule(module, device=device, dynamic_shapes=dynamic_shapes)
    compiled._prepare(args, kwargs, check=check)
    return compiled


def _arguments(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example, dict):
        return (), dict(example)
    if isinstance(example, (tuple, list)):
        return tuple(example), {}
    return (example,), {}


class CompiledModule:
    """What `compile` returns. Call it like the module, from any thread."""

    def __init__(self, module: Any, *, device: Any = None, dynamic_shapes: Any = None) -> None:
        self._module = module
        self._device = device
        self._dynamic_shapes = dynamic_shapes
        self._lock = threading.Lock()
        # By what a call looks like: the structure of its arguments, shapes and dtypes, and what is no tensor.
        self._exports: dict[Any, Future[_Export]] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._prepare(args, kwargs, check=False).run(args, kwargs)

    @property
    def models(self) -> list[Model]:
        """The models that were made so far: one for each set of input shapes, or one for all with `dynamic_shapes`."""
        return [future.result().model for future in list(self._exports.values()) if future.done()]

    def __repr__(self) -> str:
        return f"CompiledModule({type(self._module).__name__}, {len(self._exports)} exports)"

    def _prepare(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, check: bool) -> _Export:
        key = _signature(args, kwargs, shapes=self._dynamic_shapes is None)
        future = self._exports.get(key)
        if future is None:
            with self._lock:
                future = self._exports.get(key)
                mine = future is None
                if future is None:
                    future = self._exports[key] = Future()
            if mine:
                try:
                    export = _export(self._module, args, kwargs, self._device, self._dynamic_shapes)
                    if check:
                        export.check(self._module, args, kwargs)
                except BaseException as e:
                    # Everybody who waits hears of it; the next call tries again.
                    with self._lock:
                        del self._exports[key]
                    future.set_exception(e)
                    raise
                future.set_result(export)
        return future.result()


def _signature(args: Any, kwargs: Any, *, shapes: bool) -> Any:
    """What tells calls apart: two with the same signature can use the same export."""

    def of(value: Any) -> Any:
        if isinstance(value, (tuple, list)):
            return (type(value), *map(of, value))
        if isinstance(value, dict):
            return (dict, *((k, of(v)) for k, v in value.items()))
        if hasattr(value, "shape") and hasattr(value, "dtype"):
            name = str(value.dtype).rpartition(".")[2]
            return (name, tuple(value.shape) if shapes else len(value.shape))
        return (type(value), value)

    try:
        key = (of(args), of(kwargs))
        hash(key)
    except TypeError as e:
        raise InvalidArgument(f"an argument is neither a tensor nor a plain value: {e}") from e
    return key


class _Export:
    """A model with the way from a call's arguments to its inputs and back."""

    def __init__(self, model: Model, tensors: int, structure: Any) -> None:
        self.model = model
        self.structure = structure
        self.names = model.input_names
        if len(self.names) != tensors:
            raise InternalError(
                f"the exported model has the inputs {list(self.names)}, but the call has {tensors} tensors"
            )

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        torch = _torch()
        from torch.utils import _pytree as pytree

        tensors = [v for v in pytree.tree_leaves((args, kwargs)) if _is_array(v)]
        if torch.is_grad_enabled() and any(getattr(t, "requires_grad", False) for t in tensors):
            raise Unsupported(
                "an input requires gradients, which results of a compiled module do not carry: call it under "
                "torch.no_grad(), or detach the input"
            )
        to_torch = any(isinstance(t, torch.Tensor) for t in tensors) or not tensors
        inputs = {name: _to_host(torch, t) for name, t in zip(self.names, tensors, strict=True)}
        outputs = list(self.model.run(inputs).values())
        return pytree.tree_unflatten(
            [_from_host(torch, y) if to_torch else _as_array(y) for y in outputs], self.structure
        )

    def check(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The module's own outputs for the example, to 1e-4."""
        torch = _torch()
        from torch.utils import _pytree as pytree

        args, kwargs = pytree.tree_map(lambda v: _to_tensor(torch, v), (args, kwargs))
        with torch.no_grad():
            got = pytree.tree_leaves(self.run(args, kwargs))
            want = pytree.tree_leaves(_in_evaluation(module, lambda: module(*args, **kwargs)))
        for i, (g, w) in enumerate(zip(got, want, strict=True)):
            a, b = g.double(), w.double()
            if a.shape != b.shape:
                raise InternalError(f"output {i} has shape {list(a.shape)}, the module's has {list(b.shape)}")
            error = float((a - b).norm() / b.norm().clamp_min(1e-30))
            if not error <= TOLERANCE:
                raise InternalError(
                    f"output {i} differs from the module's by {error:.2e}, at most {TOLERANCE:.0e} is right"
                )


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _to_tensor(torch: Any, value: Any) -> Any:
    return torch.from_numpy(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value


def _to_host(torch: Any, value: Any) -> Any:
    """An array around a tensor's memory, where NumPy has its dtype; else the tensor by DLPack."""
    if not isinstance(value, torch.Tensor):
        return value
    value = value.detach()
    if value.device.type != "cpu":
        value = value.cpu()
    if value.dtype == torch.bfloat16:
        from . import from_dlpack

        return from_dlpack(value.contiguous())
    return value.resolve_conj().resolve_neg().numpy()


def _as_array(value: Any) -> Any:
    return value if isinstance(value, np.ndarray) else value.numpy()


def _from_host(torch: Any, value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return torch.from_dlpack(value)
    if not value.flags.writeable:
        # torch has no read-only tensors.
        value = value.copy()
    return torch.from_numpy(value)


def _in_evaluation(module: Any, work: Callable[[], Any]) -> Any:
    """`work` while the module is in evaluation mode: no dropout; then each part is as it was."""
    before = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        return work()
    finally:
        for m, training in before:
            m.training = training


def _export(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], device: Any, dynamic: Any) -> _Export:
    """Through an ONNX file, which is gone afterwards."""
    torch = _torch()
    from torch.utils import _pytree as pytree

    from . import load

    args, kwargs = pytree.tree_map(lambda v: _to_tensor(torch, v), (args, kwargs))
    tensors = sum(isinstance(v, torch.Tensor) for v in pytree.tree_leaves((args, kwargs)))
    size = sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))

    def write(path: Path) -> Any:
        with torch.no_grad():
            structure = pytree.tree_structure(module(*args, **kwargs))
            torch.onnx.export(
                module,
                args,
                str(path),
                kwargs=kwargs or None,
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=dynamic,
                external_data=size > _INLINE_BYTES,
                verbose=False,
            )
        return structure

    with tempfile.TemporaryDirectory(prefix="streampool-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "model.onnx"
        try:
            with _EXPORTING:
                structure = _in_evaluation(module, lambda: write(path))
        except ImportError as e:
            raise Unsupported(f"exporting needs more of PyTorch's extras: {e}; pip install 'streampool[torch]'") from e
        except Exception as e:
            raise Unsupported(f"{type(module).__name__} cannot be exported to ONNX: {e}") from e
        return _Export(load(str(path), device=device), tensors, structure)


def _without_fast_path(torch: Any, graph: Any) -> Any:
    """A traced `TransformerEncoderLayer` is one fused function that no exporter knows: its definition in its place."""
    fused = torch._transformer_encoder_layer_fwd
    if all(node.target is not fused for node in graph.graph.nodes):
        return graph
    copied = torch.fx.Graph()
    copied.output(copied.graph_copy(graph.graph, {}))
    copy = torch.fx.GraphModule(graph, copied)
    for node in copy.graph.nodes:
        if node.target is fused:
            node.target = _encoder_layer
    copy.recompile()
    return copy


def _encoder_layer(
    x: Any,
    width: int,
    heads: int,
    qkv_weight: Any,
    qkv_bias: Any,
    out_weight: Any,
    out_bias: Any,
    gelu: bool,
    norm_first: bool,
    eps: float,
    norm1_weight: Any,
    norm1_bias: Any,
    norm2_weight: Any,
    norm2_bias: Any,
    weight1: Any,
    bias1: Any,
    weight2: Any,
    bias2: Any,
    mask: Any = None,
    mask_type: int | None = None,
) -> Any:
    """`torch._transformer_encoder_layer_fwd` in functions that everybody knows. x: (batch, length, width)."""
    functional = _torch().nn.functional
    if mask is not None:
        # What is not 0 is masked. By kind: (length, length), (batch, length), (batch, heads, length, length).
        mask = ~mask.bool()
        if mask_type == 1:
            mask = mask[:, None, None, :]

    def attention(x: Any) -> Any:
        batch, length, _ = x.shape
        parts = functional.linear(x, qkv_weight, qkv_bias).chunk(3, -1)
        q, k, v = (p.reshape(batch, length, heads, width // heads).transpose(1, 2) for p in parts)
        y = functional.scaled_dot_product_attention(q, k, v, mask)
        return functional.linear(y.transpose(1, 2).reshape(batch, length, width), out_weight, out_bias)

    def feed_forward(x: Any) -> Any:
        hidden = functional.linear(x, weight1, bias1)
        return functional.linear(functional.gelu(hidden) if gelu else functional.relu(hidden), weight2, bias2)

    def norm1(x: Any) -> Any:
        return functional.layer_norm(x, (width,), norm1_weight, norm1_bias, eps)

    def norm2(x: Any) -> Any:
        return functional.layer_norm(x, (width,), norm2_weight, norm2_bias, eps)

    if norm_first:
        x = x + attention(norm1(x))
        return x + feed_forward(norm2(x))
    x = norm1(x + attention(x))
    return norm2(x + feed_forward(x))


def backend(graph: Any, example_inputs: Sequence[Any]) -> Callable[..., Any]:
    """For `torch.compile(module, backend="streampool")`: what a traced graph runs on.

    Weights are taken into the model when it is exported, and again after they were changed in place.
    """
    torch = _torch()
    graph = _without_fast_path(torch, graph)
    # Parameters come as inputs of the graph; they are the same objects at every call.
    held = {i: t for i, t in enumerate(example_inputs) if isinstance(t, torch.nn.Parameter)}

    class Bound(torch.nn.Module):  # type: ignore[misc,name-defined]
        """The graph with its parameters inside, so that they are constants of the export."""

        def __init__(self) -> None:
            super().__init__()
            self.graph = graph
            self.held = torch.nn.ParameterDict({str(i): t for i, t in held.items()})

        def forward(self, *inputs: Any) -> Any:
            given = iter(inputs)
            count = len(inputs) + len(held)
            return self.graph(*(self.held[str(i)] if i in held else next(given) for i in range(count)))

    bound: Any = Bound()
    current: list[tuple[Any, CompiledModule]] = []
    lock = threading.Lock()

    def versions(inputs: Sequence[Any]) -> Any:
        return [(inputs[i].data_ptr(), inputs[i]._version) for i in held]

    def compiled(inputs: Sequence[Any]) -> CompiledModule:
        now = versions(inputs)
        with lock:
            if not current or current[0][0] != now:
                for i in held:
                    bound.held[str(i)] = inputs[i]
                current[:] = [(now, CompiledModule(bound))]
            return current[0][1]

    def run(*inputs: Any) -> Any:
        if torch.is_grad_enabled() and any(getattr(t, "requires_grad", False) for t in inputs):
            raise Unsupported(
                "backend='streampool' is for inference: results carry no gradients; call the module under "
                "torch.no_grad() or torch.inference_mode()"
            )
        rest = [t for i, t in enumerate(inputs) if i not in held]
        return compiled(inputs)(*rest)

    # It runs as it is, also when what it does is itself traceable.
    disabled: Callable[..., Any] = torch.compiler.disable(run)
    return disabled
