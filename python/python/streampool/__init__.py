"""Many threads of one process running model inference on one device at once.

>>> import numpy as np
>>> import streampool as sp
>>> x = sp.tensor([[1.0, 2.0], [3.0, 4.0]])
>>> (x @ x).sum().item()
54.0
>>> x.numpy()
array([[1., 2.],
       [3., 4.]], dtype=float32)

A `Model` or a layer serves all threads, without a lock: a thread pool over one model just works. Tensors go from thread to thread freely;
whoever uses one waits, on the device, for what makes it. Names are PyTorch's where the thing is the same.
"""

import os as _os
from typing import Any as _Any

from . import _native, linalg, nn
from ._errors import (
    DeviceLostError,
    FileError,
    ForkError,
    InternalError,
    InvalidArgument,
    InvalidModel,
    OutOfMemoryError,
    OutOfRange,
    PoolExhaustedError,
    ShutDownError,
    StreampoolError,
    TimeoutError,
    Unsupported,
)
from ._functions import *  # noqa: F403
from ._functions import __all__ as _functions_all
from ._native import (
    Device,
    Event,
    Generator,
    Model,
    SimControl,
    Stream,
    StreamContext,
    Tensor,
    __version__,
    arange,
    as_tensor,
    available_devices,
    bfloat16,
    bool,
    broadcast_tensors,
    cat,
    current_stream,
    device,
    dtype,
    empty,
    eye,
    float16,
    float32,
    float64,
    from_dlpack,
    from_numpy,
    full,
    full_like,
    get_default_device,
    int8,
    int32,
    int64,
    linspace,
    manual_seed,
    ones,
    ones_like,
    rand,
    randint,
    randn,
    randn_like,
    randperm,
    set_default_device,
    stack,
    stream,
    synchronize,
    tensor,
    uint8,
    where,
    zeros,
    zeros_like,
)

float = float32
double = float64
half = float16
int = int32
long = int64
concat = concatenate = cat


def load(path: "str | _os.PathLike[str] | bytes", device: _Any = None) -> Model:
    """Loads an ONNX model: `load("model.onnx")`. See `Model`."""
    return Model(path, device)


def compile(module: _Any, example_inputs: _Any, **options: _Any) -> _Any:
    """A PyTorch module as a function that any thread may call. See `streampool._torch.compile`; needs the extra `torch`."""
    from ._torch import compile

    return compile(module, example_inputs, **options)


class no_grad:
    """Accepted for PyTorch's sake, as a context and as a decorator: nothing here is differentiated."""

    def __enter__(self) -> "no_grad":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __call__(self, function: _Any) -> _Any:
        """The function itself."""
        return function


inference_mode = no_grad


def empty_cache(device: _Any = None) -> None:
    """Gives idle memory of a device (the default one if None) back to it."""
    _native.device(device).empty_cache()


def memory_stats(device: _Any = None) -> "dict[str, _builtins.int]":
    """Bytes live, cached, retired, reserved, the limit and the peaks. live + cached + retired == reserved."""
    return _native.device(device).memory_stats()


def memory_allocated(device: _Any = None) -> "_builtins.int":
    """Bytes in tensors that live."""
    return _native.device(device).memory_allocated()


def memory_reserved(device: _Any = None) -> "_builtins.int":
    """Bytes taken from the device."""
    return _native.device(device).memory_reserved()


def max_memory_allocated(device: _Any = None) -> "_builtins.int":
    """The most bytes in tensors since the last `reset_peak_memory_stats`."""
    return _native.device(device).memory_stats()["peak_live"]


def reset_peak_memory_stats(device: _Any = None) -> None:
    """Starts the peaks of `memory_stats` anew."""
    _native.device(device).reset_peak_memory_stats()


def set_memory_limit(bytes: "_builtins.int", device: _Any = None) -> None:
    """Changes the most bytes that may be taken from a device."""
    _native.device(device).set_memory_limit(bytes)


def is_tensor(obj: object) -> "_builtins.bool":
    """Whether it is a Tensor."""
    return isinstance(obj, Tensor)


import builtins as _builtins  # noqa: E402

# The thread that imports the package opens the default device, and thus has its stream 0.
get_default_device()

__all__ = [
    "Device",
    "DeviceLostError",
    "Event",
    "FileError",
    "ForkError",
    "Generator",
    "InternalError",
    "InvalidArgument",
    "InvalidModel",
    "Model",
    "OutOfMemoryError",
    "OutOfRange",
    "PoolExhaustedError",
    "ShutDownError",
    "SimControl",
    "Stream",
    "StreamContext",
    "StreampoolError",
    "Tensor",
    "TimeoutError",
    "Unsupported",
    "__version__",
    "arange",
    "as_tensor",
    "available_devices",
    "bfloat16",
    "bool",
    "broadcast_tensors",
    "cat",
    "compile",
    "concat",
    "concatenate",
    "current_stream",
    "device",
    "double",
    "dtype",
    "empty",
    "empty_cache",
    "eye",
    "float",
    "float16",
    "float32",
    "float64",
    "from_dlpack",
    "from_numpy",
    "full",
    "full_like",
    "get_default_device",
    "half",
    "inference_mode",
    "int",
    "int8",
    "int32",
    "int64",
    "is_tensor",
    "linalg",
    "linspace",
    "load",
    "long",
    "manual_seed",
    "max_memory_allocated",
    "memory_allocated",
    "memory_reserved",
    "memory_stats",
    "nn",
    "no_grad",
    "ones",
    "ones_like",
    "rand",
    "randint",
    "randn",
    "randn_like",
    "randperm",
    "reset_peak_memory_stats",
    "set_default_device",
    "set_memory_limit",
    "stack",
    "stream",
    "synchronize",
    "tensor",
    "uint8",
    "where",
    "zeros",
    "zeros_like",
    *_functions_all,
]
