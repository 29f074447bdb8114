"""Row 15: Graph Compilation Stress."""

from running import DEVICES, pytest, run_row


@pytest.mark.parametrize("device", DEVICES)
def test_graph_compilation_stress(device: str) -> None:
    run_row(15, device)
