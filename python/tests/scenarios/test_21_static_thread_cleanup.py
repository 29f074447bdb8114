"""Row 21: Static Thread Cleanup."""

from running import DEVICES, pytest, run_row


@pytest.mark.parametrize("device", DEVICES)
def test_static_thread_cleanup(device: str) -> None:
    run_row(21, device, quick=False)
