"""The rows' tests run on every device that must be there."""

from running import DEVICES


def test_cpu_and_sim_are_always_there() -> None:
    assert {"cpu", "sim"} <= set(DEVICES)
