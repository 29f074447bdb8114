"""Row 12: Large Workload Efficiency."""

from running import DEVICES, pytest, run_row


@pytest.mark.parametrize("device", DEVICES)
def test_large_workload_efficiency(device: str) -> None:
    run_row(12, device)
