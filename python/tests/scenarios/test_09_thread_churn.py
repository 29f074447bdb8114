"""Row 9: Thread Churn."""

from running import DEVICES, pytest, run_row


@pytest.mark.parametrize("device", DEVICES)
def test_thread_churn(device: str) -> None:
    run_row(9, device)
