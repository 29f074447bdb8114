"""Row 24: Fork MP Spawn."""

from running import DEVICES, pytest, run_row


@pytest.mark.parametrize("device", DEVICES)
def test_fork_mp_spawn(device: str) -> None:
    run_row(24, device)
