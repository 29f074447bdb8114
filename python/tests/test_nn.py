"""Layers against NumPy written out."""

import json
import struct

import numpy as np
import pytest
import streampool as sp
import streampool.nn.functional as F
from streampool import nn


def close(tensor, array, tol=1e-4):
    assert tensor.shape == array.shape
    np.testing.assert_allclose(tensor.numpy(), array, rtol=tol, atol=tol)


def draw(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def conv_reference(x, w, b, stride, padding, dilation, groups):
    """Any number of spatial axes, one output element at a time."""
    spatial = x.ndim - 2
    x = np.pad(x, [(0, 0), (0, 0)] + [(padding, padding)] * spatial)
    kernel = w.shape[2:]
    out = tuple((x.shape[i + 2] - dilation * (kernel[i] - 1) - 1) // stride + 1 for i in range(spatial))
    y = np.zeros((x.shape[0], w.shape[0], *out))
    per = w.shape[0] // groups
    for n, m in np.ndindex(x.shape[0], w.shape[0]):
        channels = slice(m // per * w.shape[1], (m // per + 1) * w.shape[1])
        for at in np.ndindex(*out):
            window = tuple(
                slice(p * stride, p * stride + dilation * (k - 1) + 1, dilation)
                for p, k in zip(at, kernel, strict=True)
            )
            y[(n, m, *at)] = (x[(n, channels, *window)] * w[m]).sum() + (b[m] if b is not None else 0)
    return y


def test_linear(device, rng):
    for shape in [(7, 5), (5,), (2, 3, 5), (0, 5)]:
        layer = nn.Linear(5, 4)
        x = draw(rng, *shape)
        close(layer(sp.tensor(x)), x @ layer.weight.numpy().T + layer.bias.numpy())
    no_bias = nn.Linear(5, 4, bias=False)
    close(no_bias(sp.tensor(x)), x @ no_bias.weight.numpy().T)
    w, b = draw(rng, 4, 5), draw(rng, 4)
    close(F.linear(sp.tensor(x), sp.tensor(w), sp.tensor(b)), x @ w.T + b)


@pytest.mark.parametrize(
    ("spatial", "stride", "padding", "dilation", "groups"),
    [(1, 1, 0, 1, 1), (1, 2, 1, 2, 2), (2, 1, 1, 1, 1), (2, 2, 0, 1, 4), (2, 1, 2, 2, 2)],
)
def test_convolutions(device, rng, spatial, stride, padding, dilation, groups):
    layer = (nn.Conv1d, nn.Conv2d)[spatial - 1](4, 8, 3, stride, padding, dilation, groups)
    x = draw(rng, 2, 4, *([9] * spatial))
    want = conv_reference(x, layer.weight.numpy(), layer.bias.numpy(), stride, padding, dilation, groups)
    close(layer(sp.tensor(x)), want)
    f = (F.conv1d, F.conv2d)[spatial - 1]
    w = sp.tensor(layer.weight.numpy(copy=True))
    close(
        f(sp.tensor(x), w, None, stride, padding, dilation, groups),
        want - layer.bias.numpy().reshape(-1, *[1] * spatial),
    )


def test_transposed_convolution_turns_a_convolution_round(device, rng):
    layer = nn.ConvTranspose2d(3, 2, 4, stride=2, padding=1, bias=False)
    x = draw(rng, 1, 3, 5, 5)
    y = layer(sp.tensor(x))
    # <conv(u), x> = <u, conv_transpose(x)>
    u = draw(rng, *y.shape)
    back = conv_reference(u, layer.weight.numpy(), None, 2, 1, 1, 1)
    np.testing.assert_allclose((back * x).sum(), (u * y.numpy()).sum(), rtol=1e-3, atol=1e-3)


def test_normalisation(device, rng):
    x = draw(rng, 3, 6, 4) * 3 + 1
    w, b = draw(rng, 4), draw(rng, 4)
    want = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * w + b
    layer = nn.LayerNorm(4)
    layer.load_state_dict({"weight": w, "bias": b})
    close(layer(sp.tensor(x)), want)
    close(F.rms_norm(sp.tensor(x), 4, sp.tensor(w), 1e-6), x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * w)
    mean, var, scale, shift = draw(rng, 6), np.abs(draw(rng, 6)) + 0.5, draw(rng, 6), draw(rng, 6)
    bn = nn.BatchNorm1d(6)
    bn.load_state_dict(
        {"running_mean": mean, "running_var": var, "weight": scale, "bias": shift, "num_batches_tracked": np.int64(3)}
    )
    c = (slice(None), None)
    close(bn(sp.tensor(x)), (x - mean[c]) / np.sqrt(var[c] + 1e-5) * scale[c] + shift[c])
    g = x.reshape(3, 2, -1)
    g = ((g - g.mean(-1, keepdims=True)) / np.sqrt(g.var(-1, keepdims=True) + 1e-5)).reshape(x.shape)
    close(nn.GroupNorm(2, 6)(sp.tensor(x)), g)


def test_pooling(device, rng):
    x = draw(rng, 2, 3, 8, 6)
    blocks = x.reshape(2, 3, 4, 2, 3, 2)
    close(nn.MaxPool2d(2)(sp.tensor(x)), blocks.max((3, 5)))
    close(nn.AvgPool2d(2)(sp.tensor(x)), blocks.mean((3, 5)))
    close(nn.AdaptiveAvgPool2d(1)(sp.tensor(x)), x.mean((2, 3), keepdims=True))
    close(nn.AdaptiveAvgPool2d((4, 3))(sp.tensor(x)), blocks.mean((3, 5)))
    values, indices = F.max_pool2d(sp.tensor(x), 2, return_indices=True)
    flat = [v.reshape(2, 3, -1) for v in (x, indices.numpy(), values.numpy())]
    np.testing.assert_array_equal(np.take_along_axis(flat[0], flat[1], 2), flat[2])
    padded = np.pad(x[0], ((0, 0), (0, 0), (1, 1)), constant_values=-np.inf)
    windows = padded[..., [[0, 1, 2], [2, 3, 4], [4, 5, 6]]]
    close(nn.MaxPool1d(3, 2, 1)(sp.tensor(x[0])), windows.max(-1))


def test_embedding_and_activations(device, rng):
    table = nn.Embedding(10, 4, padding_idx=0)
    i = rng.integers(0, 10, (3, 5))
    close(table(sp.tensor(i)), table.weight.numpy()[i])
    assert table.weight[0].tolist() == [0] * 4
    x = draw(rng, 50) * 4
    t = sp.tensor(x)
    close(nn.LeakyReLU(0.2)(t), np.where(x > 0, x, 0.2 * x))
    close(nn.ELU()(t), np.where(x > 0, x, np.expm1(np.minimum(x, 0))))
    close(nn.Hardswish()(t), x * np.clip(x / 6 + 0.5, 0, 1))
    close(nn.ReLU6()(t), np.clip(x, 0, 6))
    close(F.normalize(t, dim=0), x / np.linalg.norm(x))


def attention_reference(q, k, v, mask):
    s = q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1]) + mask
    e = np.exp(s - s.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True) @ v


def test_attention(device, rng):
    q, k, v = (draw(rng, 2, 3, n, 8) for n in (5, 7, 7))
    hidden = rng.random((5, 7)) < 0.3
    hidden[:, 0] = False
    for mask, array in [(None, 0.0), (sp.tensor(~hidden), np.where(hidden, -np.inf, 0))]:
        got = F.scaled_dot_product_attention(*map(sp.tensor, (q, k, v)), attn_mask=mask)
        close(got, attention_reference(q, k, v, array))
    causal = np.triu(np.full((7, 7), -np.inf), 1)
    close(
        F.scaled_dot_product_attention(*map(sp.tensor, (k, k, v)), is_causal=True), attention_reference(k, k, v, causal)
    )


def test_multihead_attention_with_and_without_shared_input_agree(device, rng):
    layer = nn.MultiheadAttention(12, 3, batch_first=True)
    x = sp.tensor(draw(rng, 2, 5, 12))
    shared, _ = layer(x, x, x)
    apart, _ = layer(x, x.clone(), x.clone())
    close(shared, apart.numpy())
    padding = sp.tensor(np.arange(5) >= 3).unsqueeze(0).expand(2, 5)
    masked, _ = layer(x, x, x, key_padding_mask=padding)
    short = layer(x[:, :3], x[:, :3], x[:, :3])[0]
    close(masked[:, :3], short.numpy())
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(12, 3, 24, batch_first=True), 2)
    assert encoder(x).shape == x.shape


def test_state_goes_through_safetensors(device, rng, tmp_path):
    def make():
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))

    a, b = make(), make()
    x = sp.tensor(draw(rng, 2, 1, 8, 8))
    assert not a(x).equal(b(x))
    a.save_safetensors(tmp_path / "a.safetensors")
    b.load_state_dict(tmp_path / "a.safetensors")
    assert a(x).equal(b(x))
    safetensors = pytest.importorskip("safetensors.numpy")
    theirs = safetensors.load_file(tmp_path / "a.safetensors")
    assert set(theirs) == set(a.state_dict())
    for name, value in a.state_dict().items():
        np.testing.assert_array_equal(theirs[name], value.numpy())
    half = make().half()
    half.save_safetensors(tmp_path / "half.safetensors")
    make().bfloat16().save_safetensors(tmp_path / "bf.safetensors")
    assert safetensors.load_file(tmp_path / "half.safetensors")["0.weight"].dtype == np.float16
    c = make().bfloat16()
    c.load_state_dict(tmp_path / "bf.safetensors")


def test_a_state_that_does_not_fit_changes_nothing(device, rng):
    layer = nn.Linear(3, 2)
    before = layer.weight.numpy(copy=True)
    good = draw(rng, 2, 3)
    for state in (
        {"weight": good},
        {"weight": good, "bias": draw(rng, 3)},
        {"weight": good, "bias": draw(rng, 2), "more": good},
    ):
        with pytest.raises(sp.InvalidArgument, match=r"bias|more"):
            layer.load_state_dict(state)
        np.testing.assert_array_equal(layer.weight.numpy(), before)
    layer.load_state_dict({"weight": good}, strict=False)
    np.testing.assert_array_equal(layer.weight.numpy(), good)


def _file(head, body=b""):
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack("<Q", len(text)) + text + body


@pytest.mark.parametrize(
    "data",
    [
        b"", b"123", struct.pack("<Q", 1 << 60), _file(b"{"), _file([]), _file({"weight": 3}),
        _file({"weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}),
        _file({"weight": {"dtype": "F32", "shape": [-2, -3], "data_offsets": [0, 24]}}, bytes(24)),
        _file({"weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [24, 0]}}, bytes(24)),
        _file({"weight": {"dtype": "F99", "shape": [2, 3], "data_offsets": [0, 24]}}, bytes(24)),
        _file({"weight": {"dtype": "F32", "shape": [1 << 62, 4], "data_offsets": [0, 0]}}),
        _file(b"[" * 100_000),
    ],
)  # fmt: skip
def test_damaged_safetensors_are_refused(tmp_path, data):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(data)
    with pytest.raises(sp.InvalidModel, match="is it a safetensors"):
        nn.Linear(3, 2).load_state_dict(path)
    with pytest.raises(sp.FileError):
        nn.Linear(3, 2).load_state_dict(tmp_path / "none")


def test_modules_move_and_convert(rng):
    layer = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    x = sp.tensor(draw(rng, 5, 3))
    y = layer(x)
    moved = layer.to("sim")
    assert moved is layer
    assert {p.device.type for p in layer.parameters()} == {"sim"}
    assert layer(x.to("sim")).cpu().equal(y)
    layer.to("cpu", sp.float64)
    close(layer(x.double()), y.numpy().astype(np.float64))
    assert [n for n, _ in layer.named_parameters()] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert len(list(layer.modules())) == 4


def test_linalg_reconstructs(device, rng):
    for dtype, tol in (("float32", 1e-4), ("float64", 1e-9)):
        a = rng.standard_normal((3, 8, 8)).astype(dtype)
        spd = a @ np.swapaxes(a, -1, -2) + 8 * np.eye(8, dtype=dtype)
        t, s = sp.tensor(a), sp.tensor(spd)
        low = sp.linalg.cholesky(s)
        close(low @ low.mT, spd, tol * 10)
        q, r = sp.linalg.qr(sp.tensor(a[:, :, :5]))
        close(q @ r, a[:, :, :5], tol)
        u, d, vh = sp.linalg.svd(sp.tensor(a[:, :5]))
        close((u * d.unsqueeze(-2)) @ vh, a[:, :5], tol)
        w, v = sp.linalg.eigh(s)
        close((v * w.unsqueeze(-2)) @ v.mT, spd, tol * 10)
        b = rng.standard_normal((3, 8, 2)).astype(dtype)
        close(s @ sp.linalg.solve(s, sp.tensor(b)), b, tol * 10)
        close(s @ sp.linalg.inv(s), np.broadcast_to(np.eye(8), (3, 8, 8)).astype(dtype), tol)
        np.testing.assert_allclose(sp.linalg.det(t).numpy(), np.linalg.det(a), rtol=tol * 100)
