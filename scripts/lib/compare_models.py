"""Runs real models through streampool's command and through ONNX Runtime. Runs in the virtual environment.

    compare_models.py STREAMPOOL FOLDER DEVICE N [NAME ...]
"""

import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnxruntime

TOLERANCE = 1e-4


def tokens(rng, i):
    """MiniLM: a few sentences of random tokens, some padded."""
    batch = int(rng.integers(1, 5))
    length = [1, 2, 7, 16, 33, 64, 128, 200][i % 8]
    used = rng.integers(1, length + 1, (batch, 1))
    return {
        "input_ids": rng.integers(0, 30000, (batch, length)),
        "attention_mask": (np.arange(length)[None] < used).astype(np.int64),
        "token_type_ids": np.zeros((batch, length), np.int64),
    }


def magika(rng, i):
    return {"bytes": rng.integers(0, 257, (int(rng.integers(1, 9)), 2048)).astype(np.int32)}


def speech(rng, i):
    batch = 1
    return {
        "input": (rng.standard_normal((batch, 576)) * 0.1).astype(np.float32),
        "state": (rng.standard_normal((2, batch, 128)) * 0.1).astype(np.float32),
        "sr": np.array(16000, np.int64),
    }


def picture(*size):
    def make(rng, i):
        h, w = size[i % len(size)]
        return {"x": rng.uniform(-1, 1, (1, 3, h, w)).astype(np.float32)}

    return make


def music(rng, i):
    batch = int(rng.integers(1, 3))
    return {"serving_default_input_2:0": (rng.standard_normal((batch, 43844, 1)) * 0.1).astype(np.float32)}


def floats(name, width):
    return lambda rng, i: {name: rng.standard_normal((int(rng.integers(1, 70)), width)).astype(np.float32)}


# fetch-models' name -> [(file, random inputs)]
MODELS = {
    "minilm": [("minilm.onnx", tokens), ("minilm-dynamo.onnx", tokens)],
    "magika": [("magika.onnx", magika)],
    "silero-vad": [("silero-vad.onnx", speech), ("silero-vad-ifless.onnx", speech), ("silero-vad-16k.onnx", speech)],
    "rapidocr": [
        ("ocr-det.onnx", picture((64, 96), (160, 128))),
        ("ocr-rec.onnx", picture((48, 160), (48, 320))),
        ("ocr-cls.onnx", picture((48, 192))),
    ],
    "basic-pitch": [("basic-pitch.onnx", music)],
    "mlp": [("mlp.onnx", floats("x", 512))],
    "micro": [("micro.onnx", floats("x", 64))],
    "linear": [("linear.onnx", floats("x", 2048))],
}


def differs(got, want):
    """Why `got` is not `want`; None if it is near enough."""
    if got.dtype != want.dtype or got.shape != want.shape:
        return f"{got.dtype}{got.shape} instead of {want.dtype}{want.shape}"
    if not np.issubdtype(want.dtype, np.floating):
        return None if (got == want).all() else "integers differ"
    error = np.linalg.norm((got - want).astype(np.float64).ravel())
    norm = np.linalg.norm(want.astype(np.float64).ravel())
    if not error <= TOLERANCE * norm:
        return f"relative L2 error {error / max(norm, 1e-300):.2e}"
    return None


def compare(streampool, path, make, device, count):
    """Number of inputs on which all is equal, the first difference, seconds."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    wanted = [i.name for i in session.get_inputs()]
    names = [o.name for o in session.get_outputs()]
    rng, good, first, start = np.random.default_rng(7), 0, None, time.time()
    with tempfile.TemporaryDirectory() as folder:
        for i in range(count):
            feed = make(rng, i)
            feed = {name: feed[name] for name in wanted}
            x, y = f"{folder}/x.npz", f"{folder}/y.npz"
            np.savez(x, **feed)
            # All rows in one request, so that the shapes are those that ONNX Runtime sees.
            rows = max([a.shape[0] for a in feed.values() if a.ndim] or [1])
            done = subprocess.run(
                [streampool, "run", path, "--input", x, "--output", y, "--batch", str(rows), "--requests", "1",
                 "--device", device],
                capture_output=True, text=True, timeout=300,
            )
            if done.returncode:
                return good, done.stderr.strip()[-300:], time.time() - start
            expected = dict(zip(names, session.run(None, feed)))
            with np.load(y) as got:
                for name, want in expected.items():
                    why = differs(got[name], want)
                    if why and not first:
                        first = f"input {i}, output '{name}': {why}"
                        break
                else:
                    good += 1
    return good, first, time.time() - start


def main():
    streampool, folder, device, count, *names = sys.argv[1:]
    folder, count = pathlib.Path(folder), int(count)
    failed = ran = 0
    for name, files in MODELS.items():
        if names and name not in names:
            continue
        for file, make in files:
            if not (folder / file).exists():
                continue
            good, first, seconds = compare(streampool, folder / file, make, device, count)
            ran += 1
            failed += good != count
            print(f"{'ok  ' if good == count else 'FAIL'}  {file:24} {good} of {count} equal ONNX Runtime's  {seconds:6.1f} s"
                  + (f"  {first}" if first else ""), flush=True)
    if not ran:
        sys.exit("error: no models are there; scripts/fetch-models gets them")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
