"""The transfer network as a whole: what it accepts, what it computes once, and that it can be trained."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from guided_transfer.errors import DeviceError, UsageError
from guided_transfer.models.control import ControlConfig
from guided_transfer.models.network import TransferNetwork, init_weights
from guided_transfer.models.transformer import Block, TransformerConfig

LATENT = (16, 2, 4, 6)
SIZE = LATENT[1:]
BASE = TransformerConfig(48, 2, 3, 96, 20, 8, max_size=(4, 5, 6))
CONTROL = ControlConfig(48, 2, 2, 96, 20, 8, max_size=(4, 5, 6), hint_channels=20, hint_widths=(8, 12))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make_network(*kinds: str, silent: bool = False) -> TransferNetwork:
    network = TransferNetwork.from_configs(BASE, dict.fromkeys(kinds or ("edge", "depth"), CONTROL))
    generator = torch.Generator().manual_seed(0)
    init_weights(network, generator)
    if not silent:
        for parameter in network.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return network


def inputs(batch: int = 1) -> dict[str, Any]:
    return {
        "x": noise(batch, *LATENT),
        "c_noise": torch.linspace(-1.0, 1.0, batch + 1)[1:],
        "text": noise(batch, 5, 20, seed=1),
        "hints": {"edge": noise(batch, *LATENT, seed=2), "depth": noise(batch, *LATENT, seed=3)},
        "weights": {"edge": 0.5, "depth": 0.25},
    }


def run(network: TransferNetwork, given: dict[str, Any], **changes: Any) -> Tensor:
    given = {**given, **changes}
    conditioning = network.prepare(given["text"], given["hints"], given["weights"], fps=30.0, latent_size=SIZE)
    return network(given["x"], given["c_noise"], conditioning)


def test_a_batch_equals_its_samples() -> None:
    network, given = make_network(), inputs(batch=3)
    per_sample = {"edge": torch.tensor([0.5, 0.0, 1.0]), "depth": torch.tensor([0.25, 1.0, 1.0])}
    together = run(network, given, weights=per_sample)
    for i in range(3):
        alone = run(
            network,
            {
                "x": given["x"][i : i + 1],
                "c_noise": given["c_noise"][i : i + 1],
                "text": given["text"][i : i + 1],
                "hints": {kind: hint[i : i + 1] for kind, hint in given["hints"].items()},
                "weights": {kind: float(weight[i]) for kind, weight in per_sample.items()},
            },
        )
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-5)


def test_any_subset_of_the_controls_in_any_order() -> None:
    network, given = make_network(), inputs()
    edge_alone = run(network, given, hints={"edge": given["hints"]["edge"]}, weights={"edge": 0.5})
    silenced = run(network, given, weights={"edge": 0.5, "depth": 0.0})
    torch.testing.assert_close(edge_alone, silenced, rtol=0, atol=1e-6)
    swapped = {kind: given["hints"][kind] for kind in ("depth", "edge")}
    torch.testing.assert_close(run(network, given, hints=swapped), run(network, given), rtol=0, atol=1e-5)
    assert (edge_alone - run(network, given)).abs().max() > 1e-3


def test_branches_with_different_numbers_of_blocks_add_up() -> None:
    network, given = make_network("edge"), inputs()
    deeper = make_network("depth").branch("depth")
    both = TransferNetwork(network.base, {"edge": network.branch("edge"), "depth": deeper})
    shallow = both.branch("edge")
    shallow.zero_blocks = shallow.zero_blocks[:1]  # type: ignore[assignment]
    seen: list[int] = []
    both.base.register_forward_pre_hook(lambda module, args: seen.append(len(args[3])))
    total = run(both, given)
    assert seen == [2]
    assert torch.isfinite(total).all()


def test_without_controls_the_base_runs_alone() -> None:
    network, given = make_network(), inputs()
    alone = TransferNetwork(network.base, {})
    torch.testing.assert_close(
        run(alone, given, hints={}, weights={}), run(network, given, hints={}, weights={}), rtol=0, atol=0
    )


def test_another_text_shares_everything_else() -> None:
    network, given = make_network(), inputs()
    negative = noise(1, 7, 20, seed=9)
    conditioning = network.prepare(given["text"], given["hints"], given["weights"], fps=30.0)
    other = network.with_text(conditioning, negative)
    assert other.base.positions is conditioning.base.positions
    assert other.branches["edge"].hint_tokens is conditioning.branches["edge"].hint_tokens
    torch.testing.assert_close(
        network(given["x"], given["c_noise"], other), run(network, given, text=negative), rtol=0, atol=0
    )


def test_what_does_not_change_is_computed_once_per_clip() -> None:
    network, given = make_network(), inputs()
    calls = {"text": 0, "hint": 0, "positions": 0}

    def count(name: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            calls[name] += 1

        return hook

    for module in network.modules():
        if isinstance(module, Block):
            module.cross_attn.k.register_forward_hook(count("text"))
    for kind in network.branches:
        network.branch(kind).hint_mlp.register_forward_hook(count("hint"))
        network.branch(kind).positions.register_forward_hook(count("positions"))
    network.base.positions.register_forward_hook(count("positions"))
    conditioning = network.prepare(given["text"], given["hints"], given["weights"], fps=30.0)
    for _ in range(3):
        network(given["x"], given["c_noise"], conditioning)
    assert calls == {"text": 3 + 2 + 2, "hint": 2, "positions": 3}


def test_given_frames_are_marked() -> None:
    network, given = make_network(), inputs()
    conditioning = network.prepare(given["text"], given["hints"], given["weights"], fps=30.0)
    mask = torch.zeros(1, 1, *SIZE)
    unmarked = network(given["x"], given["c_noise"], conditioning, mask)
    torch.testing.assert_close(unmarked, network(given["x"], given["c_noise"], conditioning), rtol=0, atol=0)
    mask[:, :, 0] = 1
    assert (network(given["x"], given["c_noise"], conditioning, mask) - unmarked).abs().max() > 1e-3


def test_fresh_weights_pass_the_input_on_and_give_zero() -> None:
    network, given = make_network(silent=True), inputs()
    assert not run(network, given).any()
    conditioning = network.prepare(given["text"], given["hints"], given["weights"], fps=30.0)
    x = noise(1, 18, *SIZE)
    residuals = network.branch("edge")(
        x, given["c_noise"], conditioning.branches["edge"].context, conditioning.branches["edge"].hint_tokens, 1.0
    )
    assert not any(residual.any() for residual in residuals)
    tokens = network.base.embed(x)
    passed = network.base.run_block(0, tokens, network.base.time_embed(given["c_noise"]), conditioning.base)
    torch.testing.assert_close(passed, tokens + conditioning.base.positions)


@pytest.mark.parametrize("autocast", [False, True])
def test_training_reaches_every_parameter_and_lowers_the_loss(autocast: bool) -> None:
    network, given = make_network(silent=True), inputs(batch=2)
    target = noise(2, *LATENT, seed=5)
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses, reached = [], set()
    for _ in range(12):
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = (run(network, given).float() - target).square().mean()
        loss.backward()
        reached |= {name for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}
        optimiser.step()
        losses.append(loss.item())
    assert {name for name, _ in network.named_parameters()} == reached
    assert losses[-1] < 0.8 * losses[0]


def test_gradients_reach_through_what_is_prepared_once() -> None:
    network, given = make_network(), inputs()
    text = given["text"].requires_grad_()
    hint = given["hints"]["edge"].requires_grad_()
    run(network, given).square().sum().backward()
    assert text.grad is not None
    assert text.grad.any()
    assert hint.grad is not None
    assert hint.grad.any()


def test_compiled_blocks_train_as_plain_ones() -> None:
    torch._dynamo.reset()
    plain, compiled, given = make_network(), make_network(), inputs()
    compiled.compile_blocks(backend="aot_eager")
    for network in (plain, compiled):
        run(network, given).square().sum().backward()
    for (name, a), (_, b) in zip(plain.named_parameters(), compiled.named_parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"text": noise(1, 5, 21)}, r"text is \[1, 5, 21\].*\[B, L, 20\]"),
        (
            {"hints": {"vis": noise(1, *LATENT)}, "weights": {"vis": 1.0}},
            r"no control branch for \['vis'\].*'edge'",
        ),
        ({"weights": {"edge": 1.0}}, r"one weight per hint.*\['depth', 'edge'\].*\['edge'\]"),
        ({"hints": {}, "weights": {}}, r"must agree on one \(T, H, W\), got neither"),
        ({"latent_size": (2, 4, 8)}, r"must agree on one \(T, H, W\).*\(2, 4, 8\)"),
        ({"hints": {}, "weights": {}, "latent_size": (2, 5, 6)}, "2x5x6.*multiples of 2"),
        ({"hints": {}, "weights": {}, "latent_size": (5, 4, 6)}, r"\(5, 2, 3\) tokens.*\(4, 5, 6\)"),
    ],
)
def test_bad_input_is_named_before_anything_is_computed(change: dict[str, Any], words: str) -> None:
    given = {key: inputs()[key] for key in ("text", "hints", "weights")}
    with pytest.raises(UsageError, match=words):
        make_network().prepare(**{**given, "fps": 30.0, **change})


def test_latents_of_another_size_than_prepared_are_refused() -> None:
    network, given = make_network(), inputs()
    conditioning = network.prepare(given["text"], given["hints"], given["weights"], fps=30.0)
    with pytest.raises(UsageError, match=r"\[2, 4, 8\], prepared were \[2, 4, 6\]"):
        network(noise(1, 16, 2, 4, 8), given["c_noise"], conditioning)


def test_an_unknown_attention_backend_is_refused() -> None:
    with pytest.raises(UsageError, match="'fa9' is unknown; choose auto, cudnn, flash, math"):
        make_network().use_attention("fa9")  # type: ignore[arg-type]


def test_cudnn_attention_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="'cudnn' needs a CUDA device"):
        make_network().use_attention("cudnn")
