"""Calls per second of PyTorch from threads on a GPU: eager, and with a CUDA graph made by hand for each thread.

    python gpu_torch.py [--seconds 0.4] [--only MiniLM]

The same rows as gpu-verify's table: W1 (Linear 2048 x 2048, batch 64, bfloat16), W3 (an MLP of 512-1024-1024-512, batch 1, float32) and an
encoder of MiniLM's size in float16 with random weights, one call being waited for before the next. Says so and ends well if there is no PyTorch.
"""

import argparse
import threading
import time

THREADS = (1, 2, 4, 8, 16)


def encoder(torch):
    """all-MiniLM-L6-v2 without its weights: six layers of 384, 12 heads, 1536 between, exact GELU, normalised after."""
    nn, functional = torch.nn, torch.nn.functional

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.out = nn.Linear(384, 1152), nn.Linear(384, 384)
            self.up, self.down = nn.Linear(384, 1536), nn.Linear(1536, 384)
            self.norms = nn.ModuleList([nn.LayerNorm(384), nn.LayerNorm(384)])

        def forward(self, x, mask):
            b, s, _ = x.shape
            q, k, v = self.qkv(x).view(b, s, 3, 12, 32).permute(2, 0, 3, 1, 4)
            a = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            x = self.norms[0](x + self.out(a.transpose(1, 2).reshape(b, s, 384)))
            return self.norms[1](x + self.down(functional.gelu(self.up(x))))

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.kinds, self.places = nn.Embedding(30522, 384), nn.Embedding(2, 384), nn.Embedding(512, 384)
            self.norm = nn.LayerNorm(384)
            self.layers = nn.ModuleList(Layer() for _ in range(6))

        def forward(self, ids, mask, kinds):
            x = self.words(ids) + self.kinds(kinds) + self.places.weight[: ids.shape[1]]
            x = self.norm(x)
            hidden = torch.zeros_like(mask, dtype=x.dtype).masked_fill(mask == 0, -1e4)[:, None, None, :]
            for layer in self.layers:
                x = layer(x, hidden)
            return x

    return Encoder()


def rate(new, threads, seconds):
    """Calls per second of all threads together."""
    counts, barrier, stop = [0] * threads, threading.Barrier(threads + 1), threading.Event()

    def work(i):
        call = new()
        for _ in range(20):
            call()
        n = 0
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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.4)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    try:
        import torch
    except ImportError:
        print("PyTorch: not run, it is not installed")
        return
    if not torch.cuda.is_available():
        print("PyTorch: not run, it sees no GPU")
        return
    torch.set_grad_enabled(False)
    nn = torch.nn
    device = torch.device("cuda")
    mlp = nn.Sequential(nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 512))
    minilm = encoder(torch).half().to(device).eval()

    def sentence(tokens):
        ids = torch.randint(1000, 20000, (1, tokens), device=device)
        return ids, torch.ones_like(ids), torch.zeros_like(ids)

    rows = [
        ("W1 bf16", nn.Linear(2048, 2048).bfloat16().to(device), (torch.randn(64, 2048, device=device).bfloat16(),)),
        ("W3 float32", mlp.to(device), (torch.randn(1, 512, device=device),)),
        ("MiniLM fp16 b1 s16", minilm, sentence(16)),
        ("MiniLM fp16 b1 s128", minilm, sentence(128)),
    ]
    one_at_a_time = threading.Lock()
    for name, model, inputs in rows:
        if options.only not in name:
            continue

        def eager(model=model, inputs=inputs):
            stream = torch.cuda.Stream()
            torch.set_grad_enabled(False)

            def call():
                with torch.cuda.stream(stream):
                    model(*inputs)
                stream.synchronize()

            return call

        def graphed(model=model, inputs=inputs):
            stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
            torch.set_grad_enabled(False)
            # PyTorch captures in one thread at a time.
            with one_at_a_time, torch.cuda.stream(stream):
                model(*inputs)
                stream.synchronize()
                with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                    model(*inputs)

            def call():
                with torch.cuda.stream(stream):
                    graph.replay()
                stream.synchronize()

            return call

        for how, new in (("eager", eager), ("graph by hand", graphed)):
            rates = []
            for n in THREADS:
                try:
                    rates.append(rate(new, n, options.seconds))
                except RuntimeError as e:
                    print(f"{name}, PyTorch {how}, {n} threads: {e}")
                    break
            print(f"{name + ', PyTorch ' + how:44}" + " ".join(f"{r:9.0f}" for r in rates), flush=True)


if __name__ == "__main__":
    main()
