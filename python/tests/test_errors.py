"""Bad input gives a typed error that says what was asked and the way out; nothing leaks."""

import gc

import numpy as np
import pytest
import streampool as sp
from places import DIGITS
from streampool import nn

BAD = {
    "shapes": (sp.InvalidArgument, lambda: sp.ones(2, 3) + sp.ones(4)),
    "matmul": (sp.InvalidArgument, lambda: sp.ones(2, 3) @ sp.ones(2, 3)),
    "negative length": (sp.InvalidArgument, lambda: sp.zeros(-1)),
    "absurd size": (sp.StreampoolError, lambda: sp.zeros(1 << 40, 1 << 40)),
    "a size that is NaN": (sp.InvalidArgument, lambda: sp.zeros(float("nan"))),
    "a size that is text": (sp.InvalidArgument, lambda: sp.zeros("3")),
    "an object array": (sp.InvalidArgument, lambda: sp.tensor(np.array([object()]))),
    "a ragged list": (sp.InvalidArgument, lambda: sp.tensor([[1], [2, 3]])),
    "strings": (sp.InvalidArgument, lambda: sp.tensor(["a"])),
    "complex numbers": (sp.InvalidArgument, lambda: sp.from_numpy(np.ones(2, complex))),
    "the other byte order": (sp.InvalidArgument, lambda: sp.from_numpy(np.ones(2, ">f4"))),
    "a bool that is 7": (sp.InvalidArgument, lambda: sp.from_numpy(np.array([7], np.uint8).view(bool))),
    "no such dtype": (sp.InvalidArgument, lambda: sp.zeros(2, dtype="float17")),
    "no such device": (sp.Unsupported, lambda: sp.zeros(2, device="tpu")),
    "a device that is a number": (sp.InvalidArgument, lambda: sp.zeros(2, device=3)),
    "an infinite size": (sp.InvalidArgument, lambda: sp.zeros(float("inf"))),
    "a reshape to NaN": (sp.InvalidArgument, lambda: sp.ones(4).reshape(float("nan"))),
    "a NaN wait": (sp.InvalidArgument, lambda: sp.Device("cpu", wait_timeout=float("nan"))),
    "a negative limit": (sp.InvalidArgument, lambda: sp.set_memory_limit(-1)),
    "a negative timeout": (sp.InvalidArgument, lambda: sp.synchronize(timeout=-1)),
    "a pool of 0": (sp.InvalidArgument, lambda: sp.Device("cpu", streams=0)),
    "no such policy": (sp.InvalidArgument, lambda: sp.Device("cpu", policy="hope")),
    "sim's settings": (sp.InvalidArgument, lambda: sp.Device("cpu", seed=3)),
    "a NaN timeout": (sp.InvalidArgument, lambda: sp.synchronize(timeout=float("nan"))),
    "an axis": (sp.InvalidArgument, lambda: sp.ones(2).sum(5)),
    "reshape": (sp.InvalidArgument, lambda: sp.ones(4).reshape(3)),
    "two devices": (sp.InvalidArgument, lambda: sp.ones(2) + sp.ones(2, device="sim")),
    "a layer's width": (sp.InvalidArgument, lambda: nn.Linear(3, 4)(sp.ones(2, 5))),
    "a layer's dtype": (sp.InvalidArgument, lambda: nn.Linear(3, 4)(sp.ones(2, 3, dtype="float64"))),
    "a layer's device": (sp.InvalidArgument, lambda: nn.Linear(3, 4)(sp.ones(2, 3, device="sim"))),
    "groups": (sp.InvalidArgument, lambda: nn.Conv2d(3, 4, 1, groups=2)),
    "training": (sp.InvalidArgument, lambda: nn.Linear(3, 4).train()),
    "singular": (sp.InvalidArgument, lambda: sp.linalg.inv(sp.zeros(2, 2)).numpy()),
    "a vocabulary": (sp.InvalidArgument, lambda: nn.Embedding(3, 4)(sp.tensor([3])).numpy()),
    "no such file": (sp.FileError, lambda: sp.load("no-such-model.onnx")),
    "no model": (sp.InvalidModel, lambda: sp.load(b"this is no model")),
    "modulo": (sp.Unsupported, lambda: pow(sp.ones(1), 2, 3)),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_a_typed_error(name):
    kind, call = BAD[name]
    sp.ones(1)
    gc.collect()
    before = sp.memory_allocated()
    with pytest.raises(kind) as error:
        call()
    assert len(str(error.value)) > 15
    del error
    gc.collect()
    assert sp.memory_allocated() <= before


@pytest.mark.parametrize(
    "call",
    [
        lambda: sp.ones(1) + "a",
        lambda: sp.ones(1) @ "a",
        lambda: sp.from_numpy([1]),
        lambda: sp.cat([1, 2]),
        lambda: sp.mm(sp.ones(1, 1), None),
        lambda: len(sp.tensor(1)),
        lambda: sp.load(3),
        lambda: sp.load(DIGITS / "digits.onnx").run(3),
        lambda: sp.Device("cpu", streams=float("nan")),
    ],
)
def test_wrong_kinds_of_objects_are_type_errors(call):
    with pytest.raises(TypeError):
        call()


class Raising:
    """Everything that the package may ask an object for raises."""

    def __init__(self, error):
        self.error = error

    def fail(self, *_, **__):
        raise self.error

    __array__ = __dlpack__ = __fspath__ = __index__ = __len__ = __iter__ = __getitem__ = keys = fail

    def __dlpack_device__(self):
        return 1, 0


CALLBACKS = {
    "array of a tensor": lambda model, bad: sp.tensor(bad),
    "items of a list": lambda model, bad: sp.tensor([1.0, bad]),
    "input": lambda model, bad: model(bad),
    "named input": lambda model, bad: model.run({model.input_names[0]: bad}),
    "inputs": lambda model, bad: model.run(bad),
    "path": lambda model, bad: sp.load(bad),
    "dlpack": lambda model, bad: sp.from_dlpack(bad),
}


@pytest.mark.parametrize(
    "error", [RuntimeError("planted"), KeyboardInterrupt("planted"), SystemExit("planted")], ids=repr
)
@pytest.mark.parametrize("name", CALLBACKS)
def test_exceptions_of_the_callers_own_code_arrive(device, name, error):
    """As they are, or as the cause of ours; and what is no error (Ctrl-C) never becomes one. Nothing stays held."""
    model = sp.load(DIGITS / "digits.onnx")
    image = np.random.default_rng().random((3, 1, 8, 8), np.float32)
    want = model(image).copy()
    gc.collect()
    before = device.memory_allocated()
    for _ in range(20):
        with pytest.raises((type(error), sp.InvalidArgument)) as caught:
            CALLBACKS[name](model, Raising(error))
        assert error in (caught.value, caught.value.__cause__)
        assert isinstance(error, Exception) or caught.value is error
        # The error's traceback keeps the frames, they the objects.
        error.__traceback__ = caught.value.__traceback__ = None
        del caught
    gc.collect()
    assert device.memory_allocated() == before
    assert (model(image) == want).all()


def test_exceptions_inside_a_streams_block_end_it(device):
    sp.ones(1)
    own, lease = sp.current_stream(), sp.Stream(device)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), sp.stream(lease):
            sp.ones(3) * (sp.current_stream().id == lease.id and 1 / 0)
        assert sp.current_stream().id == own.id != lease.id
    lease.close()
    assert device.pool_stats()["leased"] == 0
    assert sp.ones(3).sum().item() == 3


@pytest.mark.skipif("cuda" in sp.available_devices(), reason="there is a CUDA device")
@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_a_missing_device_says_what_is_missing(name):
    """A driver that is not there, a machine without a card, or a build without it; and what to use instead."""
    for call in (lambda: sp.Device(name), lambda: sp.zeros(2, device=name), lambda: sp.load(b"", name)):
        with pytest.raises(sp.Unsupported, match=r"(?s)(?i)(driver|device|library).*cpu"):
            call()


def test_errors_are_what_python_calls_them_too():
    for ours, pythons in [
        (sp.InvalidArgument, ValueError),
        (sp.OutOfRange, IndexError),
        (sp.Unsupported, NotImplementedError),
        (sp.TimeoutError, TimeoutError),
        (sp.OutOfMemoryError, MemoryError),
        (sp.FileError, OSError),
    ]:
        assert issubclass(ours, sp.StreampoolError)
        assert issubclass(ours, pythons)
        assert ours.__module__ == "streampool"


def test_a_closed_device_says_so(device, digits):
    x = sp.randn(3, 3)
    view = x.t()
    model = sp.Model(DIGITS / "digits.onnx")
    device.close()
    for call in (
        lambda: x + 1,
        lambda: view.numpy(),
        lambda: sp.Stream(device),
        lambda: device.synchronize(),
        lambda: device.empty_cache(),
        lambda: device.memory_stats(),
        lambda: model(np.zeros((1, 1, 8, 8), np.float32)),
        lambda: sp.zeros(1, device=device),
    ):
        with pytest.raises(sp.ShutDownError):
            call()
    assert not device.is_open


def test_out_of_memory_is_an_exception_and_nothing_more():
    device = sp.Device("cpu", memory_limit=64 << 20)
    keep = sp.ones(1024, device=device)
    live = device.memory_allocated()
    for _ in range(3):
        with pytest.raises(sp.OutOfMemoryError, match=r"64.0 MiB|asked"):
            sp.zeros(1 << 25, device=device)
        assert (keep + 1).sum().item() == 2048
    with pytest.raises(sp.OutOfMemoryError):
        sp.zeros(100 << 30, dtype="uint8", device=device)
    gc.collect()
    assert device.memory_allocated() == live
    assert device.memory_stats()["out_of_memory"] >= 4
    device.set_memory_limit(1 << 30)
    assert sp.zeros(1 << 25, device=device).numel() == 1 << 25


def test_a_full_pool_refuses_by_its_policy():
    device = sp.Device("cpu", streams=2, policy="refuse")
    with_streams = [device.stream(), device.stream()]
    with pytest.raises(sp.PoolExhaustedError, match="2"):
        sp.ones(1, device=device)
    with_streams.pop().close()
    assert sp.ones(1, device=device).item() == 1
    waiting = sp.Device("cpu", streams=1, wait_timeout=0.05)
    lease = waiting.stream()
    with pytest.raises(sp.PoolExhaustedError):
        waiting.stream()
    lease.close()


def test_injected_faults_hit_one_call():
    device = sp.Device("sim", mode="eager")
    x = sp.ones(64, device=device)
    x.wait()
    executions = device.sim.events()[2]
    device.sim.inject(execution=executions + 1)
    with pytest.raises(sp.InternalError, match="injected"):
        (x * 3).numpy()
    device.sim.inject()
    assert (x * 3).sum().item() == 192
    device.sim.lose()
    with pytest.raises(sp.DeviceLostError):
        (x * 3).numpy()
