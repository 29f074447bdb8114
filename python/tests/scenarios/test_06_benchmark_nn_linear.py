"""Row 6: Benchmark (nn.Linear)."""

from running import DEVICES, pytest, run_row


@pytest.mark.parametrize("device", DEVICES)
def test_benchmark_nn_linear(device: str) -> None:
    run_row(6, device)
