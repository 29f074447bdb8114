"""Row 17: Reuse Churn."""

from running import DEVICES, pytest, run_row


@pytest.mark.parametrize("device", DEVICES)
def test_reuse_churn(device: str) -> None:
    run_row(17, device)
