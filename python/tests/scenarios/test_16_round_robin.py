"""Row 16: Round Robin."""

from running import DEVICES, pytest, run_row


@pytest.mark.parametrize("device", DEVICES)
def test_round_robin(device: str) -> None:
    run_row(16, device)
