"""Row 20: Static Atexit."""

from running import DEVICES, pytest, run_row


@pytest.mark.parametrize("device", DEVICES)
def test_static_atexit(device: str) -> None:
    run_row(20, device, quick=False)
