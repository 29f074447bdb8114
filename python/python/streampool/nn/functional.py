"""Layers as functions, with PyTorch's names.

>>> import streampool as sp
>>> import streampool.nn.functional as F
>>> F.relu(sp.tensor([-1.0, 2.0])).tolist()
[0.0, 2.0]
"""

from typing import Any

from .. import _native
from .._errors import InvalidArgument
from .._native import Tensor

_layer_norm = _native.layer_norm
pad = _native.pad
scaled_dot_product_attention = _native.scaled_dot_product_attention

_Size = int | tuple[int, ...] | list[int]


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`input @ weight.T + bias`: (..., in) with (out, in) and (out,) to (..., out)."""
    return _native.linear(input, weight, bias)


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: _Size = 1,
    padding: _Size | str = 0,
    dilation: _Size = 1,
    groups: int = 1,
) -> Tensor:
    """Convolution of (n, in, length) with (out, in / groups, kernel)."""
    return _native.conv(input, weight, bias, stride, padding, dilation, groups, 1)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: _Size = 1,
    padding: _Size | str = 0,
    dilation: _Size = 1,
    groups: int = 1,
) -> Tensor:
    """Convolution of (n, in, height, width) with (out, in / groups, kernel height, kernel width)."""
    return _native.conv(input, weight, bias, stride, padding, dilation, groups, 2)


def conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: _Size = 1,
    padding: _Size | str = 0,
    dilation: _Size = 1,
    groups: int = 1,
) -> Tensor:
    """Convolution of (n, in, depth, height, width)."""
    return _native.conv(input, weight, bias, stride, padding, dilation, groups, 3)


def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: _Size = 1,
    padding: _Size = 0,
    output_padding: _Size = 0,
    groups: int = 1,
    dilation: _Size = 1,
) -> Tensor:
    """Transposed convolution of (n, in, length) with (in, out / groups, kernel)."""
    return _native.conv_transpose(input, weight, bias, stride, padding, output_padding, groups, dilation, 1)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: _Size = 1,
    padding: _Size = 0,
    output_padding: _Size = 0,
    groups: int = 1,
    dilation: _Size = 1,
) -> Tensor:
    """Transposed convolution of (n, in, height, width) with (in, out / groups, kernel height, kernel width)."""
    return _native.conv_transpose(input, weight, bias, stride, padding, output_padding, groups, dilation, 2)


def max_pool1d(
    input: Tensor,
    kernel_size: _Size,
    stride: _Size | None = None,
    padding: _Size = 0,
    dilation: _Size = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """Greatest of each window of (n, c, length)."""
    return _native.pool(input, "max", kernel_size, stride, padding, dilation, ceil_mode, True, 1)


def max_pool2d(
    input: Tensor,
    kernel_size: _Size,
    stride: _Size | None = None,
    padding: _Size = 0,
    dilation: _Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Greatest of each window of (n, c, height, width); with `return_indices`, where it was in its channel, too."""
    if return_indices:
        if ceil_mode or dilation not in (1, (1, 1)):
            raise InvalidArgument("max_pool2d: return_indices goes with ceil_mode=False and dilation=1")
        return _native.max_pool_with_indices(input, kernel_size, stride, padding, 2)
    return _native.pool(input, "max", kernel_size, stride, padding, dilation, ceil_mode, True, 2)


def avg_pool1d(
    input: Tensor,
    kernel_size: _Size,
    stride: _Size | None = None,
    padding: _Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """Mean of each window of (n, c, length)."""
    return _native.pool(input, "avg", kernel_size, stride, padding, 1, ceil_mode, count_include_pad, 1)


def avg_pool2d(
    input: Tensor,
    kernel_size: _Size,
    stride: _Size | None = None,
    padding: _Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """Mean of each window of (n, c, height, width)."""
    return _native.pool(input, "avg", kernel_size, stride, padding, 1, ceil_mode, count_include_pad, 2)


def _adaptive(input: Tensor, output_size: Any, spatial: int) -> Tensor:
    asked: list[int | None] = (
        [output_size] * spatial if isinstance(output_size, int) or output_size is None else list(output_size)
    )
    lengths = input.shape[-spatial:]
    sizes: list[int] = [n if n is not None else d for n, d in zip(asked, lengths, strict=True)]
    if all(n == 1 for n in sizes):
        return input.mean(tuple(range(-spatial, 0)), keepdim=True)
    if any(n <= 0 or d % n for n, d in zip(sizes, lengths, strict=True)):
        raise InvalidArgument(
            f"adaptive_avg_pool{spatial}d: {lengths} to {tuple(sizes)}: lengths have to be multiples here; use avg_pool{spatial}d"
        )
    kernel = [d // n for n, d in zip(sizes, lengths, strict=True)]
    return _native.pool(input, "avg", kernel, kernel, 0, 1, False, True, spatial)


def adaptive_avg_pool1d(input: Tensor, output_size: Any) -> Tensor:
    """Means of equal parts: (n, c, length) to (n, c, output_size), a divisor of the length."""
    return _adaptive(input, output_size, 1)


def adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor:
    """Means of equal parts: (n, c, height, width) to the output's size, divisors of the lengths."""
    return _adaptive(input, output_size, 2)


def layer_norm(
    input: Tensor,
    normalized_shape: int | tuple[int, ...] | list[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalises over the last axes, whose lengths are `normalized_shape`, then scales and shifts."""
    shape = [normalized_shape] if isinstance(normalized_shape, int) else list(normalized_shape)
    if bias is not None and weight is None:
        return _layer_norm(input, shape, None, None, eps) + bias
    return _layer_norm(input, shape, weight, bias, eps)


def rms_norm(
    input: Tensor,
    normalized_shape: int | tuple[int, ...] | list[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """Divides by the root of the mean of the squares over the last axes, then scales."""
    shape = [normalized_shape] if isinstance(normalized_shape, int) else list(normalized_shape)
    return _layer_norm(input, shape, weight, None, 1.1920929e-07 if eps is None else eps, True)


def _channels(tensor: Tensor, rank: int) -> Tensor:
    return tensor.reshape(1, -1, *([1] * (rank - 2)))


def batch_norm(
    input: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalises each channel of (n, c, ...) by the given mean and variance, then scales and shifts."""
    if training:
        raise InvalidArgument("batch_norm: this package only infers; use training=False")
    scale = (running_var + eps).rsqrt()
    if weight is not None:
        scale = scale * weight
    shift = -running_mean * scale
    if bias is not None:
        shift = shift + bias
    return input * _channels(scale, input.ndim) + _channels(shift, input.ndim)


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalises groups of channels of (n, c, ...), then scales and shifts each channel."""
    n, c = input.shape[:2]
    if num_groups <= 0 or c % num_groups:
        raise InvalidArgument(f"group_norm: {c} channels do not make {num_groups} groups")
    flat = input.reshape(n, num_groups, -1)
    out = _layer_norm(flat, [flat.shape[-1]], None, None, eps).reshape(*input.shape)
    if weight is not None:
        out = out * _channels(weight, input.ndim)
    return out if bias is None else out + _channels(bias, input.ndim)


def embedding(input: Tensor, weight: Tensor) -> Tensor:
    """Rows of a (vocabulary, width) table at int32 or int64 indices of any shape."""
    return _native.embedding(input, weight)


def dropout(input: Tensor, p: float = 0.5, training: bool = False) -> Tensor:
    """The input: this package only infers."""
    if training:
        raise InvalidArgument("dropout: this package only infers; use training=False")
    return input


def relu(input: Tensor) -> Tensor:
    """`max(x, 0)`."""
    return input.relu()


def relu6(input: Tensor) -> Tensor:
    """Into [0, 6]."""
    return input.clamp(0, 6)


def leaky_relu(input: Tensor, negative_slope: float = 0.01) -> Tensor:
    """`x` if positive, else `negative_slope * x`."""
    return input.leaky_relu(negative_slope)


def elu(input: Tensor, alpha: float = 1.0) -> Tensor:
    """`x` if positive, else `alpha * (e ** x - 1)`."""
    return _native.where(input > 0, input, input.minimum(0).expm1() * alpha)


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """Gaussian error linear unit."""
    return input.gelu(approximate)


def silu(input: Tensor) -> Tensor:
    """`x * sigmoid(x)`."""
    return input.silu()


def sigmoid(input: Tensor) -> Tensor:
    """`1 / (1 + e ** -x)`."""
    return input.sigmoid()


def tanh(input: Tensor) -> Tensor:
    """Hyperbolic tangent."""
    return input.tanh()


def softplus(input: Tensor) -> Tensor:
    """`log(1 + e ** x)`."""
    return input.softplus()


def hardsigmoid(input: Tensor) -> Tensor:
    """`clamp(x / 6 + 1 / 2, 0, 1)`."""
    return (input / 6 + 0.5).clamp(0, 1)


def hardswish(input: Tensor) -> Tensor:
    """`x * hardsigmoid(x)`."""
    return input * hardsigmoid(input)


def softmax(input: Tensor, dim: int = -1, dtype: Any = None) -> Tensor:
    """Softmax along an axis."""
    return input.softmax(dim, dtype=dtype)


def log_softmax(input: Tensor, dim: int = -1, dtype: Any = None) -> Tensor:
    """Logarithm of the softmax along an axis."""
    return input.log_softmax(dim, dtype=dtype)


def normalize(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """Divided by its norm along an axis."""
    return input / input.norm(p, dim, keepdim=True).maximum(eps)


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """The cosine of the angle between vectors along an axis."""
    norms = x1.norm(2.0, dim).maximum(eps) * x2.norm(2.0, dim).maximum(eps)
    return (x1 * x2).sum(dim) / norms


def one_hot(input: Tensor, num_classes: int) -> Tensor:
    """int64 (...) to (..., num_classes): 1 at the index, else 0."""
    return (input.unsqueeze(-1) == _native.arange(num_classes, device=input.device)).long()


__all__ = [name for name in dir() if not name.startswith("_") and name not in ("Any", "InvalidArgument", "Tensor")]
