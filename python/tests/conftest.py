"""What all tests share: a device of each kind, a watchdog, and a model."""

import faulthandler
import subprocess
import sys

import numpy as np
import pytest
import streampool as sp
from places import DIGITS, ROOT

# A test that takes longer hangs.
WATCHDOG_S = 120


@pytest.fixture(autouse=True)
def watchdog():
    faulthandler.dump_traceback_later(WATCHDOG_S, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(params=["cpu", "sim"])
def device(request):
    """A device of its own, the default one meanwhile. Afterwards nothing is leased, waits, or was broken."""
    before = sp.get_default_device()
    device = sp.Device(request.param)
    sp.set_default_device(device)
    yield device
    sp.set_default_device(before)
    if device.is_open:
        stats = device.pool_stats()
        assert stats["waiting"] == 0
        assert stats["guests"] == 0
    if device.sim is not None:
        assert device.sim.violations() == []


@pytest.fixture
def rng(request):
    """Other numbers in each run; a failure tells the seed."""
    seed = np.random.SeedSequence().entropy
    print(f"seed {seed}")
    return np.random.default_rng(seed)


@pytest.fixture(scope="session")
def digits():
    with np.load(DIGITS / "test.npz") as data:
        return {name: data[name] for name in data.files}


@pytest.fixture
def in_process():
    """Runs Python code in a process of its own; its output, if it ends with the expected status in time."""

    def run(code, *args, timeout=60, status=0):
        done = subprocess.run(
            [sys.executable, "-X", "faulthandler", "-c", code, *map(str, args)],
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=ROOT,
        )
        assert done.returncode == status, f"status {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run
