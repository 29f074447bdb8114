"""Attention and the encoder made of it, with PyTorch's names of parameters."""

import math
from typing import Any

from .._errors import InvalidArgument
from .._native import Parameter, Tensor, zeros
from . import functional as F
from .activations import Dropout
from .containers import ModuleList
from .layers import Linear, _uniform
from .module import Module
from .normalization import LayerNorm


class MultiheadAttention(Module):
    """Attention of several heads. (length, batch, width), or (batch, length, width) with `batch_first`."""

    in_proj_bias: Parameter | None

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        batch_first: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if num_heads <= 0 or embed_dim % num_heads:
            raise InvalidArgument(f"MultiheadAttention: {num_heads} heads do not divide a width of {embed_dim}")
        self.embed_dim, self.num_heads, self.batch_first = embed_dim, num_heads, batch_first
        self.in_proj_weight = _uniform((3 * embed_dim, embed_dim), math.sqrt(1.5 / embed_dim), device, dtype)
        shift = Parameter(zeros(3 * embed_dim, device=device, dtype=dtype)) if bias else None
        self.register_parameter("in_proj_bias", shift)
        self.out_proj = Linear(embed_dim, embed_dim, bias=bias, device=device, dtype=dtype)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> tuple[Tensor, None]:
        """(result, None): the weights are never in memory. True in a bool mask hides, as in PyTorch."""
        if need_weights:
            raise InvalidArgument("MultiheadAttention: the weights are not kept; use need_weights=False")
        if not self.batch_first:
            query, key, value = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
        width = self.embed_dim
        if query is key and key is value:
            q, k, v = F.linear(query, self.in_proj_weight, self.in_proj_bias).chunk(3, -1)
        else:
            parts = []
            for i, x in enumerate((query, key, value)):
                weight = self.in_proj_weight[i * width : (i + 1) * width]
                bias = None if self.in_proj_bias is None else self.in_proj_bias[i * width : (i + 1) * width]
                parts.append(F.linear(x, weight, bias))
            q, k, v = parts
        heads = [x.unflatten(-1, [self.num_heads, width // self.num_heads]).transpose(1, 2) for x in (q, k, v)]
        mask = _seen(attn_mask, q)
        if key_padding_mask is not None:
            hidden = _seen(key_padding_mask, q)
            assert hidden is not None
            hidden = hidden.unsqueeze(1).unsqueeze(1)
            mask = hidden if mask is None else mask + hidden
        out = F.scaled_dot_product_attention(
            heads[0], heads[1], heads[2], attn_mask=mask, is_causal=is_causal and mask is None
        )
        out = self.out_proj(out.transpose(1, 2).flatten(2))
        return (out if self.batch_first else out.transpose(0, 1)), None


def _seen(mask: Tensor | None, like: Tensor) -> Tensor | None:
    """A mask to add: -inf where a bool one hides."""
    if mask is None or mask.is_floating_point():
        return mask
    return zeros(*mask.shape, dtype=like.dtype, device=like.device).masked_fill(mask, float("-inf"))


class TransformerEncoderLayer(Module):
    """Attention and two linear layers, each with a residual and a norm."""

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Any = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.self_attn = MultiheadAttention(d_model, nhead, batch_first=batch_first, device=device, dtype=dtype)
        self.linear1 = Linear(d_model, dim_feedforward, device=device, dtype=dtype)
        self.linear2 = Linear(dim_feedforward, d_model, device=device, dtype=dtype)
        self.norm1 = LayerNorm(d_model, layer_norm_eps, device=device, dtype=dtype)
        self.norm2 = LayerNorm(d_model, layer_norm_eps, device=device, dtype=dtype)
        self.dropout = Dropout(dropout)
        self.norm_first = norm_first
        self.activation = getattr(F, activation) if isinstance(activation, str) else activation

    def _attend(self, x: Tensor, mask: Tensor | None, padding: Tensor | None) -> Tensor:
        attended: Tensor = self.self_attn(x, x, x, attn_mask=mask, key_padding_mask=padding)[0]
        return attended

    def _feed(self, x: Tensor) -> Tensor:
        fed: Tensor = self.linear2(self.activation(self.linear1(x)))
        return fed

    def forward(
        self, src: Tensor, src_mask: Tensor | None = None, src_key_padding_mask: Tensor | None = None
    ) -> Tensor:
        """The shape of `src`."""
        x = src
        if self.norm_first:
            x = x + self._attend(self.norm1(x), src_mask, src_key_padding_mask)
            return x + self._feed(self.norm2(x))
        x = self.norm1(x + self._attend(x, src_mask, src_key_padding_mask))
        out: Tensor = self.norm2(x + self._feed(x))
        return out


class TransformerEncoder(Module):
    """Encoder layers one after another: copies of one layer's sizes, each with parameters of its own once loaded."""

    def __init__(self, encoder_layer: TransformerEncoderLayer, num_layers: int, norm: Module | None = None) -> None:
        super().__init__()
        import copy

        self.layers = ModuleList([copy.deepcopy(encoder_layer) for _ in range(num_layers)])
        self.norm = norm

    def forward(self, src: Tensor, mask: Tensor | None = None, src_key_padding_mask: Tensor | None = None) -> Tensor:
        """The shape of `src`."""
        for layer in self.layers:
            src = layer(src, mask, src_key_padding_mask)
        return src if self.norm is None else self.norm(src)
