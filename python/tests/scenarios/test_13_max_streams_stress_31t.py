"""Row 13: Max Streams Stress (31t)."""

from running import DEVICES, pytest, run_row


@pytest.mark.parametrize("device", DEVICES)
def test_max_streams_stress_31t(device: str) -> None:
    run_row(13, device)
