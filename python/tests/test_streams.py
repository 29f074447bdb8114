"""Streams, events, memory: which thread has what, and what waits for what."""

import gc
import threading

import numpy as np
import pytest
import streampool as sp


def in_thread(f, *args):
    """The result of `f` on a thread of its own."""
    out = []

    def work():
        try:
            out.append(f(*args))
        except BaseException as e:
            out.append(e)

    t = threading.Thread(target=work)
    t.start()
    t.join(60)
    assert out, "the thread hangs"
    if isinstance(out[0], BaseException):
        raise out[0]
    return out[0]


def test_the_opener_has_stream_0_and_keeps_it(device):
    for _ in range(3):
        sp.ones(2) + 1
        assert sp.current_stream().id == 0
    assert sp.current_stream() == sp.current_stream()
    assert not sp.current_stream().is_lease


def test_live_threads_have_streams_of_their_own(device):
    barrier = threading.Barrier(6)
    seen = []

    def work():
        sp.ones(2) + 1
        first = sp.current_stream()
        barrier.wait()
        sp.ones(2) + 1
        assert sp.current_stream() == first
        seen.append(first.id)
        barrier.wait()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert len(set(seen)) == 6
    assert 0 not in seen
    stats = device.pool_stats()
    assert (stats["leased"], stats["running"]) == (0, 0)


def test_streams_are_used_again_under_new_generations():
    device = sp.Device("cpu", streams=3)
    seen = [in_thread(lambda: (sp.current_stream(device).id, sp.current_stream(device).generation)) for _ in range(12)]
    assert {i for i, _ in seen} <= {0, 1, 2}
    assert len(set(seen)) == 12


def test_contexts_nest_and_end_in_order(device):
    own = sp.current_stream()
    a, b = sp.Stream(), sp.Stream()
    with sp.stream(a):
        assert sp.current_stream().id == a.id
        with sp.stream(b):
            assert sp.current_stream().id == b.id
        assert sp.current_stream().id == a.id
    assert sp.current_stream() == own
    outer, inner = sp.stream(a), sp.stream(b)
    outer.__enter__()
    inner.__enter__()
    with pytest.raises(sp.InvalidArgument, match="order"):
        outer.__exit__(None, None, None)
    inner.__exit__(None, None, None)
    outer.__exit__(None, None, None)
    assert device.pool_stats()["leased"] == 2
    a.close()
    a.close()
    with pytest.raises(sp.InvalidArgument, match="closed"), sp.stream(a):
        pass
    with pytest.raises(sp.InvalidArgument, match="own"), sp.stream(own):
        pass
    del b, inner
    gc.collect()
    assert device.pool_stats()["leased"] == 0


def test_a_lease_goes_from_thread_to_thread(device):
    s = sp.Stream()

    def work():
        with sp.stream(s):
            return sp.current_stream().id, sp.ones(3).sum().item()

    assert in_thread(work) == (s.id, 3) == in_thread(work)
    s.close()


def test_tensors_are_ordered_between_threads_by_themselves(device, rng):
    for _ in range(50):
        x = rng.standard_normal((16, 16)).astype(np.float32)
        y = in_thread(lambda x=x: sp.tensor(x) @ sp.tensor(x))
        np.testing.assert_allclose((y * 2).sum().item(), (x @ x * 2).sum(), rtol=1e-3, atol=1e-2)
        del y


def test_work_of_a_stream_that_is_held_back_is_waited_for():
    device = sp.Device("sim", mode="manual")
    x = sp.ones(4, device=device)
    event = sp.Event()
    event.record(device.current_stream())
    assert not event.query()
    with pytest.raises(sp.TimeoutError):
        event.synchronize(timeout=0.05)
    with pytest.raises(TimeoutError):
        device.synchronize(timeout=0.05)
    assert any("submitted" in line and "done 0" in line for line in device.describe_streams())
    assert device.sim.run_all() > 0
    event.synchronize(timeout=5)
    assert event.query()
    assert x.tolist() == [1] * 4


def test_streams_wait_for_events(device):
    a, b = sp.Stream(), sp.Stream()
    with sp.stream(a):
        x = sp.randn(32, 32) @ sp.randn(32, 32)
    event = a.record_event()
    b.wait_event(event)
    b.wait_stream(a)
    with sp.stream(b):
        y = x + 1
    b.synchronize()
    assert b.query()
    np.testing.assert_allclose(y.numpy(), x.numpy() + 1, rtol=1e-6)
    first, last = sp.Event(), sp.Event()
    first.record()
    last.record()
    assert 0 <= first.elapsed_time(last) < 60_000
    with pytest.raises(sp.InvalidArgument, match="recorded"):
        sp.Event().elapsed_time(first)
    assert sp.Event().query()


def test_an_idle_threads_stream_is_taken_over():
    device = sp.Device("cpu", streams=2)
    hold, go = threading.Event(), threading.Event()

    def idle():
        sp.ones(1, device=device)
        go.set()
        hold.wait(30)

    sleeper = threading.Thread(target=idle)
    sleeper.start()
    go.wait(30)
    for _ in range(10):
        assert in_thread(lambda: sp.ones(5, device=device).sum().item()) == 5
    hold.set()
    sleeper.join(30)


def test_more_threads_than_streams_all_get_on():
    for policy in ("wait", "share"):
        device = sp.Device("cpu", streams=3, policy=policy)
        done = []

        def work(device=device, done=done):
            for _ in range(20):
                x = sp.ones(32, 32, device=device)
                assert (x @ x).sum().item() == 32**3
            done.append(1)

        threads = [threading.Thread(target=work) for _ in range(24)]
        for t in threads:
            t.start()
        for t in threads:
            t.join(60)
        assert len(done) == 24


def test_memory_is_counted_and_given_back(device):
    gc.collect()
    start = sp.memory_stats()
    tensors = [sp.randn(64, 64) for _ in range(20)]
    device.synchronize()
    stats = sp.memory_stats()
    assert stats["live"] - start["live"] >= 20 * 64 * 64 * 4
    assert stats["live"] + stats["cached"] + stats["retired"] == stats["reserved"]
    assert sp.memory_allocated() == stats["live"]
    del tensors
    device.synchronize()
    assert sp.memory_allocated() == start["live"]
    sp.empty_cache()
    assert sp.memory_stats()["reserved"] == sp.memory_reserved() == 0
    assert sp.max_memory_allocated() > 0
    sp.reset_peak_memory_stats()
    assert sp.max_memory_allocated() == 0


def test_programs_are_compiled_once_for_each_key(device):
    before = device.compile_count()
    barrier = threading.Barrier(8)

    def work():
        barrier.wait()
        for n in range(3, 9):
            sp.ones(n, n).relu()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert device.compile_count() - before == 12


def test_devices_are_told_apart():
    a, b = sp.Device("cpu"), sp.Device("cpu")
    assert a != b
    assert sp.device("cpu") == sp.device("cpu") == "cpu"
    assert sp.device(a) == a
    with pytest.raises(sp.InvalidArgument, match="two devices"):
        sp.ones(1, device=a) + sp.ones(1, device=b)
    assert sp.ones(1, device=a).to(b).device == b
    with sp.Device("cpu") as c:
        assert c.is_open
    assert not c.is_open
    assert set(sp.available_devices()) >= {"cpu", "sim"}
