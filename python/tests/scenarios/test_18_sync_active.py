"""Row 18: Sync Active."""

from running import DEVICES, pytest, run_row


@pytest.mark.parametrize("device", DEVICES)
def test_sync_active(device: str) -> None:
    run_row(18, device)
