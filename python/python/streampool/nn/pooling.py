"""Layers that pool."""

from typing import Any

from .._native import Tensor
from . import functional as F
from .module import Module


class _MaxPool(Module):
    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.dilation, self.ceil_mode = dilation, ceil_mode


class MaxPool1d(_MaxPool):
    """Greatest of each window of (n, c, length)."""

    def forward(self, input: Tensor) -> Tensor:
        """(n, c, length) to (n, c, length')."""
        return F.max_pool1d(input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)


class MaxPool2d(_MaxPool):
    """Greatest of each window of (n, c, height, width)."""

    def forward(self, input: Tensor) -> Tensor:
        """(n, c, height, width) to (n, c, height', width')."""
        out: Tensor = F.max_pool2d(input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)
        return out


class _AvgPool(Module):
    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.ceil_mode, self.count_include_pad = ceil_mode, count_include_pad


class AvgPool1d(_AvgPool):
    """Mean of each window of (n, c, length)."""

    def forward(self, input: Tensor) -> Tensor:
        """(n, c, length) to (n, c, length')."""
        return F.avg_pool1d(input, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad)


class AvgPool2d(_AvgPool):
    """Mean of each window of (n, c, height, width)."""

    def forward(self, input: Tensor) -> Tensor:
        """(n, c, height, width) to (n, c, height', width')."""
        return F.avg_pool2d(input, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad)


class AdaptiveAvgPool1d(Module):
    """Means of equal parts of (n, c, length)."""

    def __init__(self, output_size: Any) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, input: Tensor) -> Tensor:
        """(n, c, length) to (n, c, output_size)."""
        return F.adaptive_avg_pool1d(input, self.output_size)


class AdaptiveAvgPool2d(Module):
    """Means of equal parts of (n, c, height, width)."""

    def __init__(self, output_size: Any) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, input: Tensor) -> Tensor:
        """(n, c, height, width) to the output's size."""
        return F.adaptive_avg_pool2d(input, self.output_size)
