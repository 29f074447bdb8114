"""Row 5: Stream Assignment."""

from running import DEVICES, pytest, run_row


@pytest.mark.parametrize("device", DEVICES)
def test_stream_assignment(device: str) -> None:
    run_row(5, device)
