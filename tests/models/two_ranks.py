"""One of two processes of `test_share`: python two_ranks.py RANK FOLDER."""

import sys
from pathlib import Path

import torch
from torch import distributed, nn

from guided_transfer.models.control import ControlConfig
from guided_transfer.models.network import TransferNetwork
from guided_transfer.models.transformer import TransformerConfig

SIZES = {"channels": 48, "heads": 3, "blocks": 2, "mlp_channels": 32, "text_channels": 8, "lora_channels": 4}


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.manual_seed(0)
    branches = dict.fromkeys(("edge", "depth"), ControlConfig(**SIZES))
    network = TransferNetwork.from_configs(TransformerConfig(**SIZES), branches)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    alone = outputs(network)
    network.share_tokens(distributed.group.WORLD)
    torch.save(outputs(network), folder / f"shared_{rank}.pt")
    if rank == 0:
        torch.save(alone, folder / "alone.pt")
    distributed.destroy_process_group()


@torch.no_grad()
def outputs(network: TransferNetwork) -> list[torch.Tensor]:
    """Estimates under two texts, the same on every call."""
    random = torch.Generator().manual_seed(1)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random)

    size = (3, 4, 6)
    hints = {"edge": noise(1, 16, *size), "depth": noise(1, 16, *size)}
    weights = {"edge": noise(17, 8, 8).abs(), "depth": 0.5}
    conditioning = network.prepare(noise(1, 5, 8), hints, weights, fps=30.0)
    mask = torch.zeros(1, 1, *size)
    mask[:, :, :1] = 1
    x, c_noise = noise(1, 16, *size), torch.tensor([0.4])
    other = network.with_text(conditioning, noise(1, 5, 8))
    return [network(x, c_noise, conditioning, mask), network(x, c_noise, other)]


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
