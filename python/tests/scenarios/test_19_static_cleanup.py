"""Row 19: Static Cleanup."""

from running import DEVICES, pytest, run_row


@pytest.mark.parametrize("device", DEVICES)
def test_static_cleanup(device: str) -> None:
    run_row(19, device)
