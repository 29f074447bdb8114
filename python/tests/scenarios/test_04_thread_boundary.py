"""Row 4: Thread Boundary."""

from running import DEVICES, pytest, run_row


@pytest.mark.parametrize("device", DEVICES)
def test_thread_boundary(device: str) -> None:
    run_row(4, device)
