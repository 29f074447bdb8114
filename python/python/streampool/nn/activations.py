"""Layers without weights."""

from typing import Any

from .._native import Tensor
from . import functional as F
from .module import Module


class Identity(Module):
    """The input."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def forward(self, input: Tensor) -> Tensor:
        """The input."""
        return input


class Dropout(Module):
    """The input: this package only infers."""

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        self.p = p

    def forward(self, input: Tensor) -> Tensor:
        """The input."""
        return input


class _Inplace(Module):
    def __init__(self, inplace: bool = False) -> None:
        super().__init__()


class ReLU(_Inplace):
    """`max(x, 0)`."""

    def forward(self, input: Tensor) -> Tensor:
        """Element by element."""
        return input.relu()


class ReLU6(_Inplace):
    """Into [0, 6]."""

    def forward(self, input: Tensor) -> Tensor:
        """Element by element."""
        return F.relu6(input)


class LeakyReLU(Module):
    """`x` if positive, else `negative_slope * x`."""

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        super().__init__()
        self.negative_slope = negative_slope

    def forward(self, input: Tensor) -> Tensor:
        """Element by element."""
        return input.leaky_relu(self.negative_slope)


class ELU(Module):
    """`x` if positive, else `alpha * (e ** x - 1)`."""

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, input: Tensor) -> Tensor:
        """Element by element."""
        return F.elu(input, self.alpha)


class GELU(Module):
    """Gaussian error linear unit."""

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, input: Tensor) -> Tensor:
        """Element by element."""
        return input.gelu(self.approximate)


class SiLU(_Inplace):
    """`x * sigmoid(x)`."""

    def forward(self, input: Tensor) -> Tensor:
        """Element by element."""
        return input.silu()


class Sigmoid(Module):
    """`1 / (1 + e ** -x)`."""

    def forward(self, input: Tensor) -> Tensor:
        """Element by element."""
        return input.sigmoid()


class Tanh(Module):
    """Hyperbolic tangent."""

    def forward(self, input: Tensor) -> Tensor:
        """Element by element."""
        return input.tanh()


class Softplus(Module):
    """`log(1 + e ** x)`."""

    def forward(self, input: Tensor) -> Tensor:
        """Element by element."""
        return input.softplus()


class Hardsigmoid(_Inplace):
    """`clamp(x / 6 + 1 / 2, 0, 1)`."""

    def forward(self, input: Tensor) -> Tensor:
        """Element by element."""
        return F.hardsigmoid(input)


class Hardswish(_Inplace):
    """`x * hardsigmoid(x)`."""

    def forward(self, input: Tensor) -> Tensor:
        """Element by element."""
        return F.hardswish(input)


class Softmax(Module):
    """Softmax along an axis."""

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        """Along the axis."""
        return input.softmax(self.dim)


class LogSoftmax(Module):
    """Logarithm of the softmax along an axis."""

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        """Along the axis."""
        return input.log_softmax(self.dim)


class Flatten(Module):
    """Axes as one."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, input: Tensor) -> Tensor:
        """The axes as one."""
        return input.flatten(self.start_dim, self.end_dim)


class Unflatten(Module):
    """An axis as several."""

    def __init__(self, dim: int, unflattened_size: tuple[int, ...]) -> None:
        super().__init__()
        self.dim, self.unflattened_size = dim, unflattened_size

    def forward(self, input: Tensor) -> Tensor:
        """The axis as several."""
        return input.unflatten(self.dim, list(self.unflattened_size))
