"""Small types that the native half makes."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ._native import Tensor


class ValuesIndices(NamedTuple):
    """What reductions along an axis give that find something: the values, and where they were."""

    values: "Tensor"
    indices: "Tensor"
