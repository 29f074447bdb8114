"""Row 7: Real Models."""

from running import DEVICES, pytest, run_row


@pytest.mark.parametrize("device", DEVICES)
def test_real_models(device: str) -> None:
    run_row(7, device)
