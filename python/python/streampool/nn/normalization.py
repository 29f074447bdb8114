"""Layers that normalise."""

from typing import Any

from .._native import Parameter, Tensor, ones, zeros
from . import functional as F
from .module import Module


class LayerNorm(Module):
    """Normalises over the last axes, whose lengths are `normalized_shape`, then scales and shifts."""

    bias: Parameter | None
    weight: Parameter | None

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...] | list[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.normalized_shape, self.eps = shape, eps
        weight = Parameter(ones(*shape, device=device, dtype=dtype)) if elementwise_affine else None
        shift = Parameter(zeros(*shape, device=device, dtype=dtype)) if elementwise_affine and bias else None
        self.register_parameter("weight", weight)
        self.register_parameter("bias", shift)

    def forward(self, input: Tensor) -> Tensor:
        """Any shape that ends with `normalized_shape`."""
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)


class RMSNorm(Module):
    """Divides by the root of the mean of the squares over the last axes, then scales."""

    weight: Parameter | None

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...] | list[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.normalized_shape, self.eps = shape, eps
        weight = Parameter(ones(*shape, device=device, dtype=dtype)) if elementwise_affine else None
        self.register_parameter("weight", weight)

    def forward(self, input: Tensor) -> Tensor:
        """Any shape that ends with `normalized_shape`."""
        return F.rms_norm(input, self.normalized_shape, self.weight, self.eps)


class _BatchNorm(Module):
    weight: Parameter | None
    bias: Parameter | None
    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.num_features, self.eps = num_features, eps
        self.register_parameter("weight", Parameter(ones(num_features, device=device, dtype=dtype)) if affine else None)
        self.register_parameter("bias", Parameter(zeros(num_features, device=device, dtype=dtype)) if affine else None)
        self.register_buffer("running_mean", zeros(num_features, device=device, dtype=dtype))
        self.register_buffer("running_var", ones(num_features, device=device, dtype=dtype))
        self.register_buffer("num_batches_tracked", zeros((), device=device, dtype="int64"))

    def forward(self, input: Tensor) -> Tensor:
        """(n, c, ...), each channel by its running mean and variance."""
        return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class BatchNorm1d(_BatchNorm):
    """Normalises each channel of (n, c) or (n, c, length) by its running mean and variance."""


class BatchNorm2d(_BatchNorm):
    """Normalises each channel of (n, c, height, width) by its running mean and variance."""


class GroupNorm(Module):
    """Normalises groups of channels, then scales and shifts each channel."""

    weight: Parameter | None
    bias: Parameter | None

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.num_groups, self.eps = num_groups, eps
        self.register_parameter("weight", Parameter(ones(num_channels, device=device, dtype=dtype)) if affine else None)
        self.register_parameter("bias", Parameter(zeros(num_channels, device=device, dtype=dtype)) if affine else None)

    def forward(self, input: Tensor) -> Tensor:
        """(n, c, ...)."""
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)
