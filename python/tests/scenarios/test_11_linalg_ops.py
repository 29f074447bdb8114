"""Row 11: Linalg Ops."""

from running import DEVICES, pytest, run_row


@pytest.mark.parametrize("device", DEVICES)
def test_linalg_ops(device: str) -> None:
    run_row(11, device)
