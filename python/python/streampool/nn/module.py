"""The base of layers."""

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

import numpy as np

from .._errors import InvalidArgument
from .._native import Device, Parameter, Tensor, bfloat16, dtype, float16, float32, float64, from_numpy
from .._native import device as _device
from ._safetensors import read_safetensors, write_safetensors


class Module:
    """A layer, or layers made of layers. `forward` says what it does; calling it runs that.

    Attributes that are `Parameter`s or `Module`s are found by `parameters`, `state_dict`, `to`. Running changes nothing, so that any
    number of threads may run one module at once; loading and moving parameters meanwhile is safe too: each run uses those that were there
    when it came to them.
    """

    training: bool = False

    def __init__(self) -> None:
        self._parameters: dict[str, Parameter | None] = {}
        self._buffers: dict[str, Tensor | None] = {}
        self._modules: dict[str, Module] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Module):
            self.__dict__.setdefault("_modules", {})[name] = value
        elif isinstance(value, Parameter) or name in self.__dict__.get("_parameters", ()):
            self.__dict__.setdefault("_parameters", {})[name] = value
        elif name in self.__dict__.get("_buffers", ()):
            self._buffers[name] = value
        object.__setattr__(self, name, value)

    def register_parameter(self, name: str, parameter: Parameter | None) -> None:
        """Adds a parameter; None is one that is left out."""
        self._parameters[name] = parameter
        object.__setattr__(self, name, parameter)

    def register_buffer(self, name: str, tensor: Tensor | None) -> None:
        """Adds a tensor that belongs to the state but is no parameter."""
        self._buffers[name] = tensor
        object.__setattr__(self, name, tensor)

    def add_module(self, name: str, module: "Module") -> None:
        """Adds a layer."""
        setattr(self, name, module)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the layer does. Subclasses say it."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As `forward`."""
        return self.forward(*args, **kwargs)

    def train(self, mode: bool = True) -> Self:
        """Accepted for PyTorch's sake if `mode` is False: this package only infers."""
        if mode:
            raise InvalidArgument("layers only infer here; call eval(), or train the model with PyTorch")
        return self

    def eval(self) -> Self:
        """Itself: layers only infer here."""
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Itself: nothing is differentiated."""
        return self

    def children(self) -> Iterator["Module"]:
        """The layers that this one is made of."""
        yield from self._modules.values()

    def named_children(self) -> Iterator[tuple[str, "Module"]]:
        """The layers that this one is made of, with their names."""
        yield from self._modules.items()

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, "Module"]]:
        """This layer and all below it, with their names."""
        yield prefix, self
        for name, module in self._modules.items():
            yield from module.named_modules(f"{prefix}.{name}" if prefix else name)

    def modules(self) -> Iterator["Module"]:
        """This layer and all below it."""
        for _, module in self.named_modules():
            yield module

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """The parameters of this layer and all below it, with their names."""
        for prefix, module in self.named_modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    yield (f"{prefix}.{name}" if prefix else name), parameter

    def parameters(self) -> Iterator[Parameter]:
        """The parameters of this layer and all below it."""
        for _, parameter in self.named_parameters():
            yield parameter

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters and buffers by name."""
        state: dict[str, Tensor] = {}
        for prefix, module in self.named_modules():
            for name, value in [*module._parameters.items(), *module._buffers.items()]:
                if value is not None:
                    state[f"{prefix}.{name}" if prefix else name] = value
        return state

    def load_state_dict(self, state: "Mapping[str, Any] | str | os.PathLike[str]", strict: bool = True) -> None:
        """Takes parameters by name: a dict of tensors or arrays (of torch, too), or the path of a safetensors file.

        Nothing is changed unless all fit.

        Raises:
            InvalidArgument: names are missing or left over (if `strict`), or a shape differs.
        """
        given = read_safetensors(state) if isinstance(state, str | os.PathLike) else state
        own = self.state_dict()
        missing, unexpected = [n for n in own if n not in given], [n for n in given if n not in own]
        if strict and (missing or unexpected):
            raise InvalidArgument(
                f"load_state_dict: missing are {missing or 'none'}, left over are {unexpected or 'none'}; "
                "strict=False takes what fits"
            )
        new: list[tuple[Module, str, Tensor]] = []
        for prefix, module in self.named_modules():
            for name, value in [*module._parameters.items(), *module._buffers.items()]:
                key = f"{prefix}.{name}" if prefix else name
                if value is None or key not in given:
                    continue
                tensor = _tensor_of(given[key], key)
                if tensor.shape != value.shape:
                    raise InvalidArgument(
                        f"load_state_dict: '{key}' has shape {tensor.shape}, the module's has {value.shape}"
                    )
                if tensor.dtype != value.dtype or tensor.device != value.device:
                    tensor = tensor.to(value.device, value.dtype)
                new.append((module, name, Parameter(tensor) if name in module._parameters else tensor))
        for module, name, tensor in new:
            setattr(module, name, tensor)

    def save_safetensors(self, path: "str | os.PathLike[str]") -> None:
        """Writes parameters and buffers to a safetensors file."""
        write_safetensors(path, self.state_dict())

    def _apply(self, change: Callable[[Tensor], Tensor]) -> Self:
        for module in self.modules():
            for name, value in [*module._parameters.items(), *module._buffers.items()]:
                if value is not None:
                    setattr(module, name, change(value))
        return self

    def to(self, *args: Any, device: Any = None, dtype: Any = None) -> Self:
        """Moves parameters to a device, converts those of floats to a dtype, or both. Returns itself."""
        for arg in args:
            if isinstance(arg, Tensor):
                device, dtype = arg.device, arg.dtype
            elif isinstance(arg, Device):
                device = arg
            elif isinstance(arg, str) and not _is_dtype(arg):
                device = _device(arg)
            elif arg is not None:
                dtype = arg

        def change(value: Tensor) -> Tensor:
            wanted = dtype if dtype is not None and value.is_floating_point() else None
            if isinstance(value, Parameter):
                return value._moved(device, wanted)
            return value.to(device=device, dtype=wanted)

        return self._apply(change)

    def float(self) -> Self:
        """Parameters as float32."""
        return self.to(float32)

    def double(self) -> Self:
        """Parameters as float64."""
        return self.to(float64)

    def half(self) -> Self:
        """Parameters as float16."""
        return self.to(float16)

    def bfloat16(self) -> Self:
        """Parameters as bfloat16."""
        return self.to(bfloat16)

    def cpu(self) -> Self:
        """Parameters on the CPU device that all share."""
        return self.to("cpu")

    def extra_repr(self) -> str:
        """What stands between the parentheses of the text."""
        return ""

    def __repr__(self) -> str:
        if not self._modules:
            return f"{type(self).__name__}({self.extra_repr()})"
        lines = [f"  ({name}): " + repr(module).replace("\n", "\n  ") for name, module in self._modules.items()]
        return "\n".join([f"{type(self).__name__}(", *lines, ")"])


def _is_dtype(name: str) -> bool:
    try:
        dtype(name)
    except InvalidArgument:
        return False
    return True


def _tensor_of(value: Any, name: str) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray):
        return from_numpy(value)
    if hasattr(value, "detach") and hasattr(value, "__dlpack__"):
        from .._native import from_dlpack

        return from_dlpack(value.detach().cpu().contiguous())
    try:
        return from_numpy(np.asarray(value))
    except (TypeError, ValueError) as e:
        raise InvalidArgument(f"load_state_dict: '{name}' is no tensor but {type(value).__name__}") from e
