"""Several processes, one video: each works on its own part of the tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from guided_transfer.errors import UsageError


@dataclass(frozen=True)
class TokenShare:
    """One process's part of a clip's tokens, a run of them as long as every other process's.

    Everything in a network works token by token but self-attention: there each process keeps its own queries
    and fetches the keys and values of all. So every token sees what it would see in one process, whatever the
    number of heads. The sampler's state is whole everywhere, and equal, since all draw the same noise.

    Attributes:
        group: torch process group of the processes; None for one process.
        rank: of this process in the group.
        size: number of processes.
    """

    group: Any = None
    rank: int = 0
    size: int = 1

    @classmethod
    def of(cls, group: Any) -> TokenShare:
        """The share of this process in a process group."""
        from torch import distributed

        return cls(group, distributed.get_rank(group), distributed.get_world_size(group))

    def check(self, num_tokens: int) -> None:
        """Refuse a number of tokens that cannot be shared equally.

        Raises:
            UsageError: naming the numbers of processes that can.
        """
        if num_tokens % self.size:
            able = ", ".join(str(size) for size in range(1, 17) if num_tokens % size == 0)
            raise UsageError(
                f"num_gpus is {self.size}, but a clip of this size has {num_tokens} tokens, which {self.size} do "
                f"not divide; --num_gpus {able} would do, and so would another --resolution"
            )

    def own(self, tokens: Tensor, dim: int) -> Tensor:
        """Of all tokens, those of this process."""
        return tokens if self.size == 1 else tokens.chunk(self.size, dim)[self.rank]

    def whole(self, tokens: Tensor, dim: int) -> Tensor:
        """All tokens, from every process's own part."""
        return tokens if self.size == 1 else _gathered(tokens, dim, self)


@torch.compiler.disable  # a compiled block is left for the exchange
def _gathered(tokens: Tensor, dim: int, share: TokenShare) -> Tensor:
    from torch import distributed

    parts = [torch.empty_like(tokens, memory_format=torch.contiguous_format) for _ in range(share.size)]
    distributed.all_gather(parts, tokens.contiguous(), group=share.group)
    return torch.cat(parts, dim)


ALONE = TokenShare()
"""One process has all tokens."""
