"""Calls per second from 1, 2, 4 and 8 Python threads, beside ONNX Runtime in the same run.

    python python/benchmarks/threads.py [--models .cache/models] [--seconds 0.5] [--repeats 5] [--only W2,W3] [--json FILE]
    python python/benchmarks/threads.py --device cuda --threads 1,16 --only "MiniLM fp16"   # on a GPU, inputs lie there

W2 is a model of microseconds (MLP 64-64-64-64), W3 a small one (MLP 512-1024-1024-512), W4 all-MiniLM-L6-v2; each at batch 1. The
engines are measured in turn, repeat by repeat, so that what else the machine does meets all of them; the medians are printed, and
the ratio to the better of ONNX Runtime's two settings: with as many threads of its own as there are cores, its default ("ort"), and
with none ("ort, 1 core"), which suits many callers. scripts/fetch-models gets the models. ONNX Runtime is left out if it is not
installed. All of it takes two and a half minutes. For figures that mean something the machine has nothing else to do.

The last lines say what a call from Python costs on W2 beyond the same run from Rust, if the streampool command is found.
"""

import argparse
import functools
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
import streampool as sp

ROOT = pathlib.Path(__file__).resolve().parents[2]


def workloads(models: pathlib.Path, wanted: list[str]):
    """Name, file and inputs of each wanted workload that is there."""
    rng = np.random.default_rng()

    def sentence(length):
        ids = rng.integers(1000, 20000, (1, length), dtype=np.int64)
        return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}

    for name, file, inputs in [
        ("W2", "micro.onnx", {"x": rng.standard_normal((1, 64), np.float32)}),
        ("W3", "mlp.onnx", {"x": rng.standard_normal((1, 512), np.float32)}),
        ("W4 s16", "minilm.onnx", sentence(16)),
        ("W4 s128", "minilm.onnx", sentence(128)),
        ("MiniLM fp16 s16", "minilm-f16.onnx", sentence(16)),
        ("MiniLM fp16 s128", "minilm-f16.onnx", sentence(128)),
    ]:
        if wanted and not any(name.startswith(w) for w in wanted):
            continue
        if (models / file).exists():
            yield name, models / file, inputs
        elif "-f16" not in file:
            print(f"{name}: {models / file} is not there; scripts/fetch-models gets it", file=sys.stderr)


def rate(call: Callable[[], object], threads: int, seconds: float) -> float:
    """Calls per second of all threads together."""
    counts, barrier = [0] * threads, threading.Barrier(threads + 1)
    stop = threading.Event()

    def work(i: int) -> None:
        n = 0
        call()  # What a thread's first call sets up is no part of the rate.
        barrier.wait()
        while not stop.is_set():
            call()
            n += 1
        counts[i] = n

    workers = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
    for worker in workers:
        worker.start()
    barrier.wait()
    begin = time.perf_counter()
    stop.wait(seconds)
    stop.set()
    for worker in workers:
        worker.join()
    return sum(counts) / (time.perf_counter() - begin)


def engines(file: pathlib.Path, inputs: dict, device: str | None) -> dict[str, Callable[[], object]]:
    """A call of each engine, all of which give the same outputs; of streampool alone on a device that is named."""
    model = sp.load(file, device) if device else sp.load(file)
    given = {name: inputs[name] for name in model.input_names}
    if device is not None:
        given = {name: sp.tensor(array, device=model.device) for name, array in given.items()}

        def waited() -> None:
            model.run(given)
            sp.current_stream(model.device).synchronize()

        # A model with an embedding has been waited for when its run returns, as an index may be out of range.
        return {"streampool": (lambda: model.run(given)) if "minilm" in file.name else waited}
    calls: dict[str, Callable[[], object]] = {"streampool": lambda: model.run(given)}
    try:
        import onnxruntime
    except ImportError:
        return calls
    ours = list(model.run(given).values())
    for name, cores in (("ort", 0), ("ort, 1 core", 1)):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = cores
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        calls[name] = functools.partial(session.run, None, given)
        for a, b in zip(ours, calls[name](), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    return calls


def measure(calls: dict, threads: tuple[int, ...], seconds: float, repeats: int) -> dict:
    """Medians by engine and number of threads."""
    rates = {name: {n: [] for n in threads} for name in calls}
    for call in calls.values():
        rate(call, 2, 0.2)
    for _ in range(repeats):
        for n in threads:
            for name, call in calls.items():
                rates[name][n].append(rate(call, n, seconds))
    return {name: {n: statistics.median(r) for n, r in by.items()} for name, by in rates.items()}


def overhead(file: pathlib.Path, inputs: dict, repeats: int) -> dict | None:
    """Microseconds of one call from one Python thread, and of the same run by the command, in turn."""
    command = shutil.which("streampool") or next(
        (p for p in [ROOT / "target" / "release" / "streampool"] if p.exists()), None
    )
    if command is None:
        return None
    model = sp.load(file, sp.Device("cpu", cores=1))
    given = {name: inputs[name] for name in model.input_names}
    python, rust = [], []
    for _ in range(repeats):
        done = subprocess.run(
            [command, "bench", "micro", "--threads", "1", "--seconds", "0.3", "--repeats", "3", "--json", "-"],
            capture_output=True,
            text=True,
            check=True,
        )
        row = next(r for r in json.loads(done.stdout)["rows"] if r["threads"] == 1 and not r["all_cores"])
        rust.append(1e6 / row["calls_per_second"]["median"])
        n = 20_000
        begin = time.perf_counter()
        for _ in range(n):
            model.run(given)
        python.append((time.perf_counter() - begin) / n * 1e6)
    best = {"python_us": min(python), "rust_us": min(rust)}
    return best | {"overhead_us": best["python_us"] - best["rust_us"]}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=pathlib.Path, default=ROOT / ".cache" / "models")
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="", help="workloads, as W2,W3")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--device", help="streampool alone, on this device")
    parser.add_argument("--threads", default="1,2,4,8")
    options = parser.parse_args()
    threads = tuple(int(n) for n in options.threads.split(","))
    wanted = [w for w in options.only.split(",") if w]
    results: dict = {}
    print(
        f"{'calls/s':10} {'engine':12}"
        + "".join(f"{n:>10} t" for n in threads)
        + f"   {threads[-1]} t / {threads[0]} t"
    )
    micro = None
    for name, file, inputs in workloads(options.models, wanted):
        if name == "W2":
            micro = file, inputs
        result = measure(engines(file, inputs, options.device), threads, options.seconds, options.repeats)
        results[name] = result
        for engine, rates in result.items():
            line = "".join(f"{rates[n]:12,.0f}" for n in threads)
            print(f"{name:10} {engine:12}{line} {rates[threads[-1]] / rates[threads[0]]:9.2f}x")
        if peers := [rates for engine, rates in result.items() if engine != "streampool"]:
            ratios = [result["streampool"][n] / max(rates[n] for rates in peers) for n in threads]
            print(f"{name:10} {'ratio':12}" + "".join(f"{r:11.2f}x" for r in ratios))
    if micro is not None and options.device is None and (cost := overhead(*micro, options.repeats)) is not None:
        results["overhead"] = cost
        print(
            f"W2, one thread: {cost['python_us']:.2f} us a call from Python, {cost['rust_us']:.2f} us from Rust: ",
            end="",
        )
        print(f"{cost['overhead_us']:.2f} us more")
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
