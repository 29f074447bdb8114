"""Row 3: Extended Stress."""

from running import DEVICES, pytest, run_row


@pytest.mark.parametrize("device", DEVICES)
def test_extended_stress(device: str) -> None:
    run_row(3, device)
