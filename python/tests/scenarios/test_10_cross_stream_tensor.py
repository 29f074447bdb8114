"""Row 10: Cross-Stream Tensor."""

from running import DEVICES, pytest, run_row


@pytest.mark.parametrize("device", DEVICES)
def test_cross_stream_tensor(device: str) -> None:
    run_row(10, device)
