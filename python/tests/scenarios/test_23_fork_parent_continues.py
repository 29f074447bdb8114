"""Row 23: Fork Parent Continues."""

from running import DEVICES, pytest, run_row


@pytest.mark.parametrize("device", DEVICES)
def test_fork_parent_continues(device: str) -> None:
    run_row(23, device)
