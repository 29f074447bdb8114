"""Rows 5, 8, 9, 16 and 17: which stream a thread has, and that it gives it back."""

from __future__ import annotations

import threading

import numpy as np

import streampool as sp

from ..check import near, require, same_bits
from ..context import Context
from ..row import row
from ..work import product

Owner = tuple[int, int]


def owner(device: sp.Device) -> Owner:
    """The calling thread's stream and the generation of its ownership."""
    stream = sp.current_stream(device)
    return stream.id, stream.generation


@row(5, "Stream Assignment")
def stream_assignment(context: Context) -> str:
    """The opener has stream 0; each live thread one of its own, which it keeps."""
    device = context.device
    require(owner(device)[0] == 0, f"the thread that opened the device is on stream {owner(device)[0]}, not 0")
    total = np.zeros((8, 8), np.float32)
    sums = sp.zeros(8, 8, device=device)
    for seed in range(3):
        x = context.randn(8, 8, seed=seed)
        sums, total = sp.add(sums, x), total + x.numpy()
        require(owner(device)[0] == 0, "the main thread left stream 0")
    near(sums.numpy(), total, 1e-6, "three additions")

    def mine_for(threads: int) -> list[Owner]:
        barrier = threading.Barrier(threads)
        work = product(context, 16)

        def body(t: int) -> Owner:
            mine = owner(device)
            for i in range(10):
                work(10 * t + i)
                require(
                    owner(device) == mine,
                    f"thread {t}: {owner(device)} after {mine}: a thread keeps its stream",
                )
            barrier.wait(60)
            require(owner(device) == mine, f"thread {t}: lost {mine} while slots were free")
            return mine

        return context.at_once(threads, body)

    for threads in (2, 31):
        # While those that ended still hold slots, an idle thread may lose its own to one that waits.
        context.all_free(device, f"before {threads} threads")
        streams = [stream for stream, _ in mine_for(threads)]
        require(len(set(streams)) == threads, f"{threads} live threads had {len(set(streams))} streams")
        require(0 not in streams, "a worker was on the opener's stream")
    require(owner(device)[0] == 0, "the opener lost stream 0")
    return "main on 0; 2 and 31 live threads on as many streams of their own"


def one_after_another(context: Context, threads: int) -> tuple[sp.Device, list[Owner]]:
    """Threads that each compute, say which stream they have, and end before the next begins."""
    device = context.device
    work = product(context, 32)
    serial = context.serial(work, range(7))
    owners: list[Owner] = []

    def body(t: int) -> Owner:
        mine = owner(device)
        same_bits(work(t % 7), serial[t % 7], f"thread {t}")
        require(owner(device) == mine, f"thread {t} did not keep {mine}")
        return mine

    for t in range(threads):
        owners.append(context.at_once_from(t, body))
        stats = device.pool_stats()
        alive = stats["size"] - stats["free"]
        require(alive <= stats["size"], f"{alive} slots of {stats['size']} in use")
    ids = [stream for stream, _ in owners]
    size = device.pool_stats()["size"]
    require(all(0 <= i < size for i in ids), f"stream ids out of range: {ids}")
    require(
        len(set(owners)) == threads,
        f"{threads} owners, {len(set(owners))} distinct (stream, generation) pairs",
    )
    for stream in set(ids):
        generations = [g for s, g in owners if s == stream]
        require(generations == sorted(generations), f"stream {stream}: generations {generations} go back")
    context.all_free(device, f"after {threads} threads")
    return device, owners


@row(8, "Pool Wraparound")
def pool_wraparound(context: Context) -> str:
    """64 threads one after another on a pool of 32."""
    _, owners = one_after_another(context, 64)
    used = {stream for stream, _ in owners}
    require(len(used) < 64, "no stream was reused")
    return f"64 threads on {len(used)} streams, every ownership with a generation of its own"


@row(16, "Round Robin")
def round_robin(context: Context) -> str:
    """200 threads one after another use all slots."""
    device, owners = one_after_another(context, 200)
    size = device.pool_stats()["size"]
    used = {stream for stream, _ in owners}
    require(
        used == set(range(1, size)),
        f"only {len(used)} of the {size - 1} streams beside the opener's were used",
    )
    return f"200 threads on all {len(used)} streams beside the opener's"


@row(9, "Thread Churn")
def thread_churn(context: Context) -> str:
    """50 threads each followed by a probe; 4 batches of 20 behind a barrier."""
    device = context.device
    work = product(context, 64)
    serial = context.serial(work, range(20))
    for t in range(50):
        context.at_once_from(t, lambda t: same_bits(work(t % 20), serial[t % 20], f"thread {t}"))
        # The probe: another thread finds the pool as it was.
        context.at_once_from(t, lambda t: same_bits(work(0), serial[0], f"probe {t}"))
        context.counted += 2
    context.all_free(device, "after 50 threads and probes")
    for batch in range(4):
        context.storm(20, 1, work, lambda t, _: t, serial)
        context.all_free(device, f"after batch {batch + 1} of 20 threads")
    return f"{context.counted} threads; slots all free after each batch"


@row(17, "Reuse Churn")
def reuse_churn(context: Context) -> str:
    """10 rounds of 8 threads."""
    device = context.device
    work = product(context, 64)
    serial = context.serial(work, range(24))
    for round_ in range(10):
        context.storm(8, 3, work, lambda t, i: 3 * t + i, serial)
        context.all_free(device, f"after round {round_ + 1}")
    return f"{context.counted} results equal serial; slots all free after each of 10 rounds"
