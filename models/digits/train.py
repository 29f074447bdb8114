#!/usr/bin/env python3
"""Trains the digits model and writes digits.onnx and test.npz beside this file.

The data are the 1,797 handwritten digits of 8x8 grey values (0 to 16) that scikit-learn ships (UCI "Optical
Recognition of Handwritten Digits"). A quarter of them, stratified by digit, is held back as the test set; the
network never sees it. Forward and backward passes are written out in NumPy, so that the file needs no framework:

    python3 -m venv venv && venv/bin/pip install -r models/digits/requirements.txt
    venv/bin/python models/digits/train.py            # half a minute; prints the accuracy
    venv/bin/python models/digits/train.py --check    # only compares the committed files with ONNX Runtime

Everything is seeded. With the pinned versions and one BLAS thread (set below) the files come out the same, byte for
byte, on the same kind of processor; another BLAS kernel may change last bits of the weights, not the accuracy by
more than a digit or two.

The network: (x / 16) -> Conv 3x3x16 pad 1 -> ReLU -> Conv 3x3x32 pad 1 -> ReLU -> MaxPool 2x2 -> Flatten ->
Linear 64 -> ReLU -> Linear 10 -> Softmax. Input "image" is float32 (batch, 1, 8, 8), output "probabilities" is
float32 (batch, 10).
"""

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import argparse
import io
import pathlib
import zipfile

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

HERE = pathlib.Path(__file__).resolve().parent
SEED = 2026
EPOCHS = 60
BATCH = 32
RATE = 2e-3
DECAY = 1e-4
MINIMUM_ACCURACY = 0.98


def data():
    """(train images, train labels, test images, test labels); images are float32 (n, 1, 8, 8) of values 0 to 16."""
    digits = load_digits()
    images = digits.images.astype(np.float32)[:, None]
    labels = digits.target.astype(np.int64)
    x, xt, y, yt = train_test_split(images, labels, test_size=0.25, random_state=SEED, stratify=labels)
    return x, y, xt, yt


# Layers. Each forward returns its output and what its backward needs; each backward returns the gradient of its input
# and those of its parameters.


def columns(x):
    """The 3x3 neighbourhoods of a zero-padded image: (n, c, h, w) -> (n, h, w, c * 9)."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    n, c, h, w = x.shape
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(n, h, w, c * 9)


def conv(x, weight, bias):
    cols = columns(x)
    out = cols @ weight.reshape(weight.shape[0], -1).T + bias
    return out.transpose(0, 3, 1, 2), (x.shape, cols, weight)


def conv_backward(grad, saved):
    shape, cols, weight = saved
    g = grad.transpose(0, 2, 3, 1)
    dweight = np.tensordot(g, cols, axes=([0, 1, 2], [0, 1, 2])).reshape(weight.shape)
    # The gradient of the input is the correlation with the kernel turned by half a turn.
    turned = weight[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
    dx = (columns(grad) @ turned.reshape(turned.shape[0], -1).T).transpose(0, 3, 1, 2)
    assert dx.shape == shape
    return dx, dweight, g.sum((0, 1, 2))


def max_pool(x):
    n, c, h, w = x.shape
    blocks = x.reshape(n, c, h // 2, 2, w // 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(n, c, h // 2, w // 2, 4)
    best = blocks.argmax(-1)
    return np.take_along_axis(blocks, best[..., None], -1)[..., 0], (x.shape, best)


def max_pool_backward(grad, saved):
    (n, c, h, w), best = saved
    blocks = np.zeros((n, c, h // 2, w // 2, 4), np.float32)
    np.put_along_axis(blocks, best[..., None], grad[..., None], -1)
    return blocks.reshape(n, c, h // 2, w // 2, 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(n, c, h, w)


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


class Network:
    """The parameters, the forward pass and the gradients of the mean cross entropy."""

    def __init__(self, rng):
        def he(*shape):
            fan_in = int(np.prod(shape[1:]))
            return (rng.standard_normal(shape) * np.sqrt(2 / fan_in)).astype(np.float32)

        zeros = lambda n: np.zeros(n, np.float32)
        self.parameters = {
            "conv1.weight": he(16, 1, 3, 3),
            "conv1.bias": zeros(16),
            "conv2.weight": he(32, 16, 3, 3),
            "conv2.bias": zeros(32),
            "fc1.weight": he(64, 32 * 4 * 4),
            "fc1.bias": zeros(64),
            "fc2.weight": he(10, 64),
            "fc2.bias": zeros(10),
        }

    def forward(self, images, keep=None):
        p = self.parameters
        a, s1 = conv(images / np.float32(16), p["conv1.weight"], p["conv1.bias"])
        a1 = np.maximum(a, 0)
        b, s2 = conv(a1, p["conv2.weight"], p["conv2.bias"])
        b1 = np.maximum(b, 0)
        pooled, s3 = max_pool(b1)
        flat = pooled.reshape(len(images), -1)
        if keep is not None:
            flat = flat * keep
        h = flat @ p["fc1.weight"].T + p["fc1.bias"]
        h1 = np.maximum(h, 0)
        return softmax(h1 @ p["fc2.weight"].T + p["fc2.bias"]), (s1, a, s2, b, s3, flat, h, h1)

    def gradients(self, images, labels, keep):
        p = self.parameters
        out, (s1, a, s2, b, s3, flat, h, h1) = self.forward(images, keep)
        g = out.copy()
        g[np.arange(len(labels)), labels] -= 1
        g /= len(labels)
        grads = {"fc2.weight": g.T @ h1, "fc2.bias": g.sum(0)}
        g = (g @ p["fc2.weight"]) * (h > 0)
        grads |= {"fc1.weight": g.T @ flat, "fc1.bias": g.sum(0)}
        g = (g @ p["fc1.weight"]) * keep
        g = max_pool_backward(g.reshape(-1, 32, 4, 4), s3) * (b > 0)
        g, grads["conv2.weight"], grads["conv2.bias"] = conv_backward(g, s2)
        _, grads["conv1.weight"], grads["conv1.bias"] = conv_backward(g * (a > 0), s1)
        return grads


def shifted(images, rng):
    """Each image moved by -1, 0 or 1 pixels in both directions, zeros moving in."""
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    dy, dx = rng.integers(0, 3, (2, len(images)))
    return np.stack([padded[i, :, dy[i] : dy[i] + 8, dx[i] : dx[i] + 8] for i in range(len(images))])


def train():
    """Adam with a cosine rate, dropout before the first linear layer, images shifted by up to a pixel."""
    rng = np.random.default_rng(SEED)
    x, y, xt, yt = data()
    net = Network(rng)
    first = {k: np.zeros_like(v) for k, v in net.parameters.items()}
    second = {k: np.zeros_like(v) for k, v in net.parameters.items()}
    step, steps = 0, EPOCHS * (len(x) // BATCH)
    for epoch in range(EPOCHS):
        order = rng.permutation(len(x))
        for start in range(0, len(x) - BATCH + 1, BATCH):
            step += 1
            pick = order[start : start + BATCH]
            keep = ((rng.random((BATCH, 512)) > 0.25) / 0.75).astype(np.float32)
            grads = net.gradients(shifted(x[pick], rng), y[pick], keep)
            rate = RATE * 0.5 * (1 + np.cos(np.pi * step / steps))
            for k, v in net.parameters.items():
                first[k] = 0.9 * first[k] + 0.1 * grads[k]
                second[k] = 0.999 * second[k] + 0.001 * grads[k] ** 2
                m, s = first[k] / (1 - 0.9**step), second[k] / (1 - 0.999**step)
                net.parameters[k] = (v - rate * (m / (np.sqrt(s) + 1e-8) + DECAY * v)).astype(np.float32)
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1}: train accuracy {accuracy(net.forward(x)[0], y):.4f}")
    return net, xt, yt


def accuracy(probabilities, labels):
    return float((probabilities.argmax(-1) == labels).mean())


def export(net):
    """The network as ONNX, opset 17, with a symbolic batch axis."""
    nodes = [
        helper.make_node("Div", ["image", "scale"], ["scaled"], "scale"),
        helper.make_node(
            "Conv", ["scaled", "conv1.weight", "conv1.bias"], ["c1"], "conv1", kernel_shape=[3, 3], pads=[1, 1, 1, 1]
        ),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node(
            "Conv", ["r1", "conv2.weight", "conv2.bias"], ["c2"], "conv2", kernel_shape=[3, 3], pads=[1, 1, 1, 1]
        ),
        helper.make_node("Relu", ["c2"], ["r2"], "relu2"),
        helper.make_node("MaxPool", ["r2"], ["m"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["m"], ["flat"], "flatten", axis=1),
        helper.make_node("Gemm", ["flat", "fc1.weight", "fc1.bias"], ["h"], "fc1", transB=1),
        helper.make_node("Relu", ["h"], ["r3"], "relu3"),
        helper.make_node("Gemm", ["r3", "fc2.weight", "fc2.bias"], ["logits"], "fc2", transB=1),
        helper.make_node("Softmax", ["logits"], ["probabilities"], "softmax", axis=1),
    ]
    weights = [numpy_helper.from_array(np.array(16, np.float32), "scale")]
    weights += [numpy_helper.from_array(v, k) for k, v in net.parameters.items()]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 10])],
        weights,
        "8x8 handwritten digits; trained by models/digits/train.py",
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="streampool models/digits"
    )
    onnx.checker.check_model(model, full_check=True)
    (HERE / "digits.onnx").write_bytes(model.SerializeToString(deterministic=True))


def write_npz(path, arrays):
    """np.savez_compressed with fixed time stamps, so that the bytes depend on the arrays alone."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as out:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
            info = zipfile.ZipInfo(name + ".npy", (1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            out.writestr(info, buffer.getvalue())


def check():
    """The committed files, through ONNX Runtime: asserts that the accuracy is good enough, returns the probabilities."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(HERE / "digits.onnx"), providers=["CPUExecutionProvider"])
    with np.load(HERE / "test.npz", allow_pickle=False) as test:
        images, labels = test["image"], test["labels"]
    probabilities = session.run(None, {"image": images})[0]
    result = accuracy(probabilities, labels)
    print(f"ONNX Runtime: {round(result * len(labels))} of {len(labels)} right, accuracy {result:.4f}")
    assert result >= MINIMUM_ACCURACY, f"accuracy {result} is below {MINIMUM_ACCURACY}"
    return probabilities


def main():
    parser = argparse.ArgumentParser(description="Trains the digits model.")
    parser.add_argument("--check", action="store_true", help="only run the committed model on the committed test set")
    if not parser.parse_args().check:
        net, xt, yt = train()
        export(net)
        write_npz(HERE / "test.npz", {"image": xt, "labels": yt})
        own = net.forward(xt)[0]
        print(f"NumPy: {round(accuracy(own, yt) * len(yt))} of {len(yt)} right")
        difference = float(np.abs(own - check()).max())
        assert difference < 1e-5, f"the exported model differs from the trained one by {difference}"
    else:
        check()


if __name__ == "__main__":
    main()
