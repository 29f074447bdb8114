"""Layers with weights."""

import math
from typing import Any

from .._errors import InvalidArgument
from .._native import Parameter, Tensor, rand, randn, zeros
from . import functional as F
from .module import Module


def _uniform(shape: tuple[int, ...], bound: float, device: Any, dtype: Any) -> Parameter:
    """PyTorch's default for layers: uniform in [-bound, bound)."""
    made = (rand(*shape, device=device) * 2 - 1) * bound
    return Parameter(made if dtype is None else made.to(dtype=dtype))


def _sizes(value: Any, spatial: int) -> tuple[int, ...]:
    return (value,) * spatial if isinstance(value, int) else tuple(value)


class Linear(Module):
    """`y = x @ weight.T + bias`: (..., in_features) to (..., out_features)."""

    bias: Parameter | None

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        bound = 1 / math.sqrt(max(in_features, 1))
        self.weight = _uniform((out_features, in_features), bound, device, dtype)
        self.register_parameter("bias", _uniform((out_features,), bound, device, dtype) if bias else None)

    def forward(self, input: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        return F.linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        """The sizes."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class _Conv(Module):
    spatial = 0
    bias: Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if padding_mode != "zeros":
            raise InvalidArgument(
                f"{type(self).__name__}: padding_mode '{padding_mode}': use zeros, or functional.pad before"
            )
        if groups <= 0 or in_channels % groups or out_channels % groups:
            raise InvalidArgument(
                f"{type(self).__name__}: {groups} groups do not divide {in_channels} input and {out_channels} output channels"
            )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size = _sizes(kernel_size, self.spatial)
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        bound = 1 / math.sqrt(max(math.prod(shape[1:]), 1))
        self.weight = _uniform(shape, bound, device, dtype)
        self.register_parameter("bias", _uniform((out_channels,), bound, device, dtype) if bias else None)

    def extra_repr(self) -> str:
        """The sizes."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}"
        )


class Conv1d(_Conv):
    """Convolution of (n, in_channels, length)."""

    spatial = 1

    def forward(self, input: Tensor) -> Tensor:
        """(n, in, length) to (n, out, length')."""
        return F.conv1d(input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Conv2d(_Conv):
    """Convolution of (n, in_channels, height, width)."""

    spatial = 2

    def forward(self, input: Tensor) -> Tensor:
        """(n, in, height, width) to (n, out, height', width')."""
        return F.conv2d(input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Conv3d(_Conv):
    """Convolution of (n, in_channels, depth, height, width)."""

    spatial = 3

    def forward(self, input: Tensor) -> Tensor:
        """(n, in, depth, height, width) to the like."""
        return F.conv3d(input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class _ConvTranspose(Module):
    spatial = 0
    bias: Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.stride, self.padding, self.output_padding = stride, padding, output_padding
        self.groups, self.dilation = groups, dilation
        shape = (in_channels, out_channels // groups, *_sizes(kernel_size, self.spatial))
        bound = 1 / math.sqrt(max(math.prod(shape[1:]), 1))
        self.weight = _uniform(shape, bound, device, dtype)
        self.register_parameter("bias", _uniform((out_channels,), bound, device, dtype) if bias else None)

    def _arguments(self) -> tuple[Any, ...]:
        return (
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.output_padding,
            self.groups,
            self.dilation,
        )


class ConvTranspose1d(_ConvTranspose):
    """Transposed convolution of (n, in_channels, length)."""

    spatial = 1

    def forward(self, input: Tensor) -> Tensor:
        """(n, in, length) to (n, out, length')."""
        return F.conv_transpose1d(input, *self._arguments())


class ConvTranspose2d(_ConvTranspose):
    """Transposed convolution of (n, in_channels, height, width)."""

    spatial = 2

    def forward(self, input: Tensor) -> Tensor:
        """(n, in, height, width) to (n, out, height', width')."""
        return F.conv_transpose2d(input, *self._arguments())


class Embedding(Module):
    """Rows of a table: int32 or int64 indices of any shape to that shape plus (embedding_dim,)."""

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim, self.padding_idx = num_embeddings, embedding_dim, padding_idx
        table = randn(num_embeddings, embedding_dim, device=device)
        if padding_idx is not None:
            from .._native import arange

            hidden = (arange(num_embeddings, device=device) == padding_idx % num_embeddings).unsqueeze(1)
            table = zeros(num_embeddings, embedding_dim, device=device).where(hidden, table)
        self.weight = Parameter(table if dtype is None else table.to(dtype=dtype))

    def forward(self, input: Tensor) -> Tensor:
        """Indices of any shape to that shape plus (embedding_dim,)."""
        return F.embedding(input, self.weight)

    def extra_repr(self) -> str:
        """The sizes."""
        return f"{self.num_embeddings}, {self.embedding_dim}"
