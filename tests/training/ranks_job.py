"""What two processes see; started by torchrun in test_ranks.py."""

import json
import sys
from pathlib import Path

import torch
from torch import nn

from guided_transfer.training.ranks import Ranks

ranks = Ranks("cpu")
torch.manual_seed(ranks.rank)
model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
ranks.broadcast(model)
inputs = torch.full((1, 3), float(ranks.rank + 1))
model[0](inputs).sum().backward()  # the second layer has no gradient
ranks.average_gradients(model.parameters())
told = {
    "weights": [p.tolist() for p in model.parameters()],
    "gradient": model[0].weight.grad.tolist(),
    "untouched": model[1].weight.grad is None,
    "agreed": ranks.agree(10.0 + ranks.rank),
    "first": ranks.first,
}
Path(sys.argv[1], f"rank_{ranks.rank}.json").write_text(json.dumps(told))
ranks.close()
