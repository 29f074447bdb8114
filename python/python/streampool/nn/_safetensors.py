"""The safetensors format: a length, a JSON head, and bytes."""

import json
import math
import mmap
import os
import struct
from collections.abc import Mapping

import numpy as np

from .._errors import FileError, InvalidModel
from .._native import Tensor, from_numpy

_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
# The format's own bound.
_MOST_HEAD = 100_000_000


def read_safetensors(path: "str | os.PathLike[str]") -> dict[str, Tensor]:
    """The tensors of a file, by name, around its mapped bytes.

    Raises:
        FileError: the file cannot be read.
        InvalidModel: it is damaged, or has a dtype that tensors do not have.
    """

    def bad(why: str) -> InvalidModel:
        return InvalidModel(f"{os.fspath(path)}: {why}; is it a safetensors file, and whole?")

    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < 8:
                raise bad(f"it has {size} bytes, a head has 8 at least")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as e:
        raise FileError(f"cannot read '{os.fspath(path)}': {e.strerror}") from e
    (length,) = struct.unpack("<Q", data[:8])
    if length > min(size - 8, _MOST_HEAD):
        raise bad(f"the head says {length} bytes, the file has {size - 8} after its length")
    try:
        head = json.loads(data[8 : 8 + length])
    except (ValueError, RecursionError) as e:
        raise bad("the head is no JSON") from e
    if not isinstance(head, dict):
        raise bad("the head is no object")
    body = np.frombuffer(data, np.uint8)[8 + length :]
    tensors: dict[str, Tensor] = {}
    for name, info in head.items():
        if name == "__metadata__":
            continue
        try:
            kind, shape, (begin, end) = info["dtype"], info["shape"], info["data_offsets"]
            whole = all(isinstance(n, int) and n >= 0 for n in [*shape, begin, end])
        except (TypeError, KeyError, ValueError) as e:
            raise bad(f"the entry of '{name}' lacks dtype, shape or data_offsets") from e
        if kind not in _DTYPES:
            raise bad(f"'{name}' is of dtype {kind}, there are {', '.join(_DTYPES)}")
        item = 2 if kind == "BF16" else np.dtype(_DTYPES[kind]).itemsize
        if not whole or not begin <= end <= len(body) or end - begin != math.prod(shape) * item:
            raise bad(f"'{name}' of shape {shape} and {kind} cannot lie at {begin} to {end} of {len(body)} bytes")
        raw = body[begin:end]
        if kind == "BF16":
            wide = raw.view(np.uint16).astype(np.uint32) << 16
            tensors[name] = from_numpy(wide.view(np.float32).reshape(shape)).bfloat16()
        else:
            tensors[name] = from_numpy(raw.view(_DTYPES[kind]).reshape(shape))
    return tensors


def write_safetensors(path: "str | os.PathLike[str]", tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors to a file that appears whole or not at all."""
    kinds = {name: kind for kind, name in _DTYPES.items()}
    head: dict[str, object] = {}
    parts, at = [], 0
    for name, tensor in tensors.items():
        if tensor.dtype.name == "bfloat16":
            bits = tensor.float().numpy(copy=True).view(np.uint32)
            raw = (bits >> 16).astype(np.uint16).tobytes()
        else:
            raw = tensor.numpy().tobytes()
        head[name] = {
            "dtype": kinds[tensor.dtype.name],
            "shape": list(tensor.shape),
            "data_offsets": [at, at + len(raw)],
        }
        parts.append(raw)
        at += len(raw)
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    target = os.fspath(path)
    partial = f"{target}.{os.getpid()}.partial"
    try:
        with open(partial, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            file.writelines(parts)
        os.replace(partial, target)
    except OSError as e:
        raise FileError(f"cannot write '{target}': {e.strerror}") from e
    finally:
        if os.path.exists(partial):
            os.unlink(partial)
