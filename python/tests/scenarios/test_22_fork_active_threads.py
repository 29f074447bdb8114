"""Row 22: Fork Active Threads."""

from running import DEVICES, pytest, run_row


@pytest.mark.parametrize("device", DEVICES)
def test_fork_active_threads(device: str) -> None:
    run_row(22, device)
