"""Row 8: Pool Wraparound."""

from running import DEVICES, pytest, run_row


@pytest.mark.parametrize("device", DEVICES)
def test_pool_wraparound(device: str) -> None:
    run_row(8, device)
