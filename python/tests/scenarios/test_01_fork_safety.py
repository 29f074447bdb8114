"""Row 1: Fork Safety."""

from running import DEVICES, pytest, run_row


@pytest.mark.parametrize("device", DEVICES)
def test_fork_safety(device: str) -> None:
    run_row(1, device)
