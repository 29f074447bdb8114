"""Row 14: OOM Recovery."""

from running import DEVICES, pytest, run_row


@pytest.mark.parametrize("device", DEVICES)
def test_oom_recovery(device: str) -> None:
    run_row(14, device)
