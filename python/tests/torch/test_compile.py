"""`sp.compile`: PyTorch modules answered from 8 threads, each output within 1e-4 of the module's."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import streampool as sp

if TYPE_CHECKING:
    import torch

DEVICES = ("cpu", "sim")
THREADS = 8


@pytest.fixture(scope="module", name="torch")
def torch_module() -> Any:
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    return torch


def distance(got: Any, want: Any) -> float:
    a, b = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert a.shape == b.shape
    return float(np.linalg.norm(a - b) / max(float(np.linalg.norm(b)), 1e-30))


def from_threads(torch: Any, compiled: Callable[..., Any], module: Any, make: Callable[[int], tuple[Any, ...]]) -> None:
    """8 threads, 6 inputs each, fresh random: every output within 1e-4 of the module's own."""
    inputs = [make(seed) for seed in range(100, 100 + 6 * THREADS)]
    with torch.no_grad():
        want = [module(*x) for x in inputs]
    barrier = threading.Barrier(THREADS)

    def work(t: int) -> list[Any]:
        barrier.wait(60)
        return [compiled(*x) for x in inputs[t::THREADS]]

    with ThreadPoolExecutor(THREADS) as pool:
        got = list(pool.map(work, range(THREADS)))
    count = 0
    for t in range(THREADS):
        for y, w in zip(got[t], want[t::THREADS], strict=True):
            assert isinstance(y, torch.Tensor)
            assert y.dtype == w.dtype
            assert w.abs().sum() > 0
            assert distance(y, w) <= 1e-4
            count += 1
    assert count == len(inputs)


def mlp(torch: Any) -> Any:
    nn = torch.nn
    return nn.Sequential(
        nn.Linear(32, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 64), nn.GELU(), nn.LayerNorm(64), nn.Linear(64, 10)
    )


def conv_net(torch: Any) -> Any:
    nn = torch.nn
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, stride=2, groups=2),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10),
        nn.Softmax(dim=1),
    )


def encoder(torch: Any) -> Any:
    layer = torch.nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    return torch.nn.TransformerEncoder(layer, 3)


def normal(torch: Any, *shape: int) -> Callable[[int], tuple[Any, ...]]:
    return lambda seed: (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)),)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("build", "shape"),
    [(mlp, (4, 32)), (conv_net, (2, 3, 20, 24)), (encoder, (2, 12, 64))],
    ids=["mlp", "conv", "encoder"],
)
def test_modules_from_eight_threads(
    torch: Any, device: str, build: Callable[[Any], Any], shape: tuple[int, ...]
) -> None:
    module = build(torch)
    make = normal(torch, *shape)
    compiled = sp.compile(module, make(0), device=device)
    assert module.training, "compiling leaves the module's mode as it was"
    from_threads(torch, compiled, module.eval(), make)
    assert len(compiled.models) == 1


@pytest.mark.parametrize("device", DEVICES)
def test_one_export_serves_all_batches_if_told_so(torch: Any, device: str) -> None:
    module = encoder(torch).eval()
    axes = {0: torch.export.Dim("batch", max=64), 1: torch.export.Dim("length", max=64)}
    compiled = sp.compile(module, normal(torch, 2, 12, 64)(0), dynamic_shapes=(axes,), device=device)

    def make(seed: int) -> tuple[Any, ...]:
        return normal(torch, 1 + seed % 5, 3 + seed % 7, 64)(seed)

    from_threads(torch, compiled, module, make)
    assert len(compiled.models) == 1


def test_new_shapes_are_exported_once_whatever_the_threads(torch: Any) -> None:
    module = mlp(torch).eval()
    compiled = sp.compile(module, normal(torch, 4, 32)(0))
    from_threads(torch, compiled, module, lambda seed: normal(torch, 1 + seed % 3, 32)(seed))
    assert len(compiled.models) == 4


MODELS = Path(os.environ.get("STREAMPOOL_CACHE", Path(__file__).parents[3] / ".cache")) / "models"


@pytest.mark.parametrize("device", ["cpu"])
def test_minilm_from_eight_threads(torch: Any, device: str) -> None:
    transformers = pytest.importorskip(
        "transformers", reason="transformers is not installed: scripts/test-torch does that"
    )
    source = MODELS / "minilm-torch"
    if not source.is_dir():
        pytest.skip(f"{source} is not there: scripts/test-torch gets MiniLM's weights")
    bert = transformers.BertModel.from_pretrained(source, add_pooling_layer=False).eval()

    class Encoder(torch.nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.bert = bert

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    def make(seed: int) -> tuple[Any, ...]:
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(0, 30000, (1, 16), generator=generator)
        length = int(torch.randint(3, 17, (1,), generator=generator))
        return ids, (torch.arange(16)[None] < length).long()

    module = Encoder().eval()
    from_threads(torch, sp.compile(module, make(0), device=device), module, make)


def test_structures_of_inputs_and_outputs_are_kept(torch: Any) -> None:
    class Two(torch.nn.Module):  # type: ignore[misc,name-defined]
        def forward(self, a: torch.Tensor, *, pair: tuple[torch.Tensor, torch.Tensor], scale: float = 1.0) -> Any:
            return {"sum": a + pair[0], "rest": (a * scale, pair[1].sum())}

    a, b, c = (torch.randn(3, 4) for _ in range(3))
    compiled = sp.compile(Two(), {"a": a, "pair": (b, c)})
    got = compiled(a=a, pair=(b, c))
    assert list(got) == ["sum", "rest"]
    assert distance(got["sum"], a + b) <= 1e-6
    assert distance(got["rest"][1], c.sum()) <= 1e-5
    again = compiled(a, pair=(b, c), scale=2.0)
    assert distance(again["rest"][0], 2 * a) <= 1e-6


def test_arrays_in_give_arrays_out(torch: Any) -> None:
    module = mlp(torch).eval()
    x = np.random.default_rng(0).standard_normal((4, 32), np.float32)
    y = sp.compile(module, x)(x)
    assert isinstance(y, np.ndarray)
    with torch.no_grad():
        assert distance(y, module(torch.from_numpy(x))) <= 1e-4


def test_integers_and_bools_go_through(torch: Any) -> None:
    class Pick(torch.nn.Module):  # type: ignore[misc,name-defined]
        def forward(self, i: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return torch.where(mask, i * 2, i - 1)

    i, mask = torch.arange(12).reshape(3, 4), torch.arange(12).reshape(3, 4) % 3 == 0
    y = sp.compile(Pick(), (i, mask))(i, mask)
    assert y.dtype == torch.int64
    assert torch.equal(y, torch.where(mask, i * 2, i - 1))


def test_a_strided_input_is_read_as_it_is(torch: Any) -> None:
    module = mlp(torch).eval()
    x = torch.randn(32, 4).t()
    compiled = sp.compile(module, (x,))
    with torch.no_grad():
        assert distance(compiled(x), module(x)) <= 1e-4


def test_what_cannot_be_exported_is_refused_with_its_reason(torch: Any) -> None:
    class Branch(torch.nn.Module):  # type: ignore[misc,name-defined]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1 if x.sum().item() > 0 else x - 1

    with pytest.raises(sp.Unsupported, match="Branch cannot be exported"):
        sp.compile(Branch(), (torch.randn(3),))
    with pytest.raises(sp.InvalidArgument, match=r"not a torch\.nn\.Module"):
        sp.compile(lambda x: x, (torch.randn(3),))


def test_gradients_are_refused_rather_than_lost(torch: Any) -> None:
    module = mlp(torch).eval()
    x = torch.randn(4, 32)
    compiled = sp.compile(module, (x,))
    with pytest.raises(sp.Unsupported, match="gradients"):
        compiled(x.requires_grad_())
    with torch.no_grad():
        assert compiled(x).shape == (4, 10)


def test_an_output_that_is_off_is_an_error(torch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from streampool import _torch

    right = _torch._Export.run
    monkeypatch.setattr(_torch._Export, "run", lambda self, args, kwargs: right(self, args, kwargs) * 1.001)
    with pytest.raises(sp.InternalError, match="differs from the module's"):
        sp.compile(mlp(torch).eval(), (torch.randn(4, 32),))


def test_a_failed_export_is_tried_again(torch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from streampool import _torch

    module = mlp(torch).eval()
    compiled = sp.compile(module, (torch.randn(4, 32),))
    right = _torch._export
    monkeypatch.setattr(_torch, "_export", lambda *_: (_ for _ in ()).throw(sp.OutOfMemoryError("planted")))
    with pytest.raises(sp.OutOfMemoryError):
        compiled(torch.randn(2, 32))
    monkeypatch.setattr(_torch, "_export", right)
    assert compiled(torch.randn(2, 32)).shape == (2, 10)
