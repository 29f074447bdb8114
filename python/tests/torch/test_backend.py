"""`torch.compile(module, backend="streampool")`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import streampool as sp
from test_compile import conv_net, distance, encoder, mlp, torch_module  # noqa: F401


@pytest.mark.parametrize(
    ("build", "shape"),
    [(mlp, (4, 32)), (conv_net, (2, 3, 20, 24)), (encoder, (2, 12, 64))],
    ids=["mlp", "conv", "encoder"],
)
def test_by_name(torch: Any, build: Any, shape: tuple[int, ...]) -> None:
    torch.compiler.reset()
    module = build(torch).eval()
    compiled = torch.compile(module, backend="streampool")
    with torch.no_grad():
        for _ in range(3):
            x = torch.randn(*shape)
            assert distance(compiled(x), module(x)) <= 1e-4


def test_after_it_was_compiled_threads_may_call_it(torch: Any) -> None:
    torch.compiler.reset()
    module = mlp(torch).eval()
    compiled = torch.compile(module, backend="streampool")
    inputs = [torch.randn(4, 32) for _ in range(32)]
    with torch.no_grad():
        compiled(inputs[0])
        want = [module(x) for x in inputs]

    def call(x: Any) -> Any:
        with torch.no_grad():
            return compiled(x)

    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(call, inputs))
    assert max(distance(g, w) for g, w in zip(got, want, strict=True)) <= 1e-4


def test_changed_weights_are_seen(torch: Any) -> None:
    torch.compiler.reset()
    module = mlp(torch).eval()
    compiled = torch.compile(module, backend="streampool")
    x = torch.randn(4, 32)
    with torch.no_grad():
        before = compiled(x).clone()
        module[0].weight.mul_(1.5)
        after = compiled(x)
        assert distance(after, module(x)) <= 1e-4
        assert distance(after, before) > 1e-3


def test_other_shapes_are_compiled_anew(torch: Any) -> None:
    torch.compiler.reset()
    module = mlp(torch).eval()
    compiled = torch.compile(module, backend="streampool")
    with torch.no_grad():
        for batch in (4, 1, 7, 3):
            x = torch.randn(batch, 32)
            assert distance(compiled(x), module(x)) <= 1e-4


def test_training_is_refused(torch: Any) -> None:
    torch.compiler.reset()
    compiled = torch.compile(mlp(torch), backend="streampool")
    with pytest.raises(Exception, match="gradients") as caught:
        compiled(torch.randn(4, 32))
    causes: list[BaseException | None] = [caught.value, caught.value.__cause__, caught.value.__context__]
    assert any(isinstance(e, sp.Unsupported) for e in causes)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_the_fused_encoder_layer_is_taken_apart(torch: Any, norm_first: bool, activation: str) -> None:
    torch.compiler.reset()
    layer = torch.nn.TransformerEncoderLayer(32, 4, 64, activation=activation, norm_first=norm_first, batch_first=True)
    for p in layer.parameters():
        torch.nn.init.normal_(p, std=0.3)
    layer.eval()
    compiled = torch.compile(layer, backend="streampool")
    with torch.no_grad():
        x, mask = torch.randn(2, 6, 32), torch.ones(6, 6).triu(1).bool()
        padding = torch.tensor([[False] * 6, [False] * 4 + [True] * 2])
        assert distance(compiled(x), layer(x)) <= 1e-4
        masked = layer(x, src_mask=mask)
        assert distance(compiled(x, src_mask=mask), masked) <= 1e-4
        assert distance(masked, layer(x)) > 1e-2, "the mask has an effect"
        assert distance(compiled(x, src_key_padding_mask=padding), layer(x, src_key_padding_mask=padding)) <= 1e-4
