import pytest
import torch

from guided_transfer.models.streaming import StreamedLinears

SIZE = (3, 8, 12)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(request.param)


def run(network, arrays, device, kinds=("edge", "depth")):
    text = arrays["text"].to(device)
    hints = {kind: arrays[f"hint_{kind}"].to(device) for kind in kinds}
    conditioning = network.prepare(text, hints, dict.fromkeys(kinds, 0.4), fps=30.0, latent_size=SIZE)
    x = torch.randn(1, 16, *SIZE, generator=torch.Generator().manual_seed(1)).to(device)
    return network(x, torch.zeros(1, device=device), conditioning).cpu()


@torch.no_grad()
def test_streaming_changes_no_number(tiny_network, control_arrays, device):
    kept = tiny_network().to(device)
    streamed = tiny_network()
    StreamedLinears(streamed, device)
    for kinds in (("edge", "depth"), ("seg",), ("edge", "depth")):  # the order changes in between
        expected = run(kept, control_arrays, device, kinds)
        assert torch.equal(run(streamed, control_arrays, device, kinds), expected)


@torch.no_grad()
def test_the_order_is_learnt_and_weights_go_home(tiny_network, control_arrays, device):
    network = tiny_network()
    streamed = StreamedLinears(network, device)
    homes = [layer.weight.data_ptr() for layer in streamed.layers]
    run(network, control_arrays, device)
    assert len(streamed.follows) > 0.5 * len(streamed.layers)
    assert [layer.weight.data_ptr() for layer in streamed.layers] == homes
    assert all(layer.weight.device.type == "cpu" for layer in streamed.layers)
    assert all(n.weight.device.type == device.type for n in network.modules() if isinstance(n, torch.nn.RMSNorm))
