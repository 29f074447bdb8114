"""Row 2: Simple Parallel."""

from running import DEVICES, pytest, run_row


@pytest.mark.parametrize("device", DEVICES)
def test_simple_parallel(device: str) -> None:
    run_row(2, device)
