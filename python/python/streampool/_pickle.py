"""Pickled tensors come back here."""

import numpy as np

from ._native import Parameter, Tensor, from_numpy, tensor


def rebuild(data: bytes, dtype: str, shape: tuple[int, ...], is_parameter: bool) -> Tensor:
    """A tensor from its bytes, on this process's default device."""
    if dtype == "bfloat16":
        # The upper half of a float32.
        wide = np.frombuffer(data, np.uint16).astype(np.uint32) << 16
        made = from_numpy(wide.view(np.float32).reshape(shape)).bfloat16()
    else:
        made = tensor(np.frombuffer(data, dtype).reshape(shape))
    return Parameter(made) if is_parameter else made
