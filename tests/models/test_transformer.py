"""The base network against the reference's numbers and against diffusers' class of the same network."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from guided_transfer.models.control import ControlConfig
from guided_transfer.models.network import TransferNetwork
from guided_transfer.models.transformer import TransformerConfig, patchify, rope_angles, unpatchify

FORWARD_ATOL = 2e-5
"""The reference's float32 run is 1.8e-6 from its float64 run; a wrong rotary ratio of the base moves 1.2e-3."""


def assert_parity(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=FORWARD_ATOL)


def run_base(
    network: TransferNetwork, arrays: dict[str, Tensor], *, masks: bool = True, fps: float = 30.0, prefix: str = ""
) -> Tensor:
    x, text, timesteps = (arrays[prefix + name] for name in ("x", "text", "timesteps"))
    padding = arrays["padding_mask"] if masks else None
    conditioning = network.prepare(text, {}, {}, fps=fps, padding_mask=padding, latent_size=x.shape[2:])
    with torch.inference_mode():
        return network(x, timesteps, conditioning, arrays["condition_mask"] if masks else None)


def test_output_is_the_references(network: TransferNetwork, base_arrays: dict[str, Tensor]) -> None:
    assert_parity(run_base(network, base_arrays), base_arrays["out"])


def test_output_without_masks_is_the_references(network: TransferNetwork, base_arrays: dict[str, Tensor]) -> None:
    assert_parity(run_base(network, base_arrays, masks=False), base_arrays["out_zero_masks"])


def test_output_of_a_batch_is_the_references(network: TransferNetwork, base_arrays: dict[str, Tensor]) -> None:
    assert_parity(run_base(network, base_arrays, prefix="b2_"), base_arrays["b2_out"])


def test_output_at_another_rate_and_time_is_the_references(
    network: TransferNetwork, base_arrays: dict[str, Tensor]
) -> None:
    changed = {**base_arrays, "timesteps": torch.tensor([-1.5])}
    assert_parity(run_base(network, changed, masks=False, fps=24.0), base_arrays["out_fps24_t1"])


@pytest.mark.parametrize("change", [{"rope_ratios": (1.0, 1.0, 1.0)}, {"rope_precision": "bf16"}])
def test_tolerance_tells_wrong_angles(
    tiny_network: Callable[[], TransferNetwork], base_arrays: dict[str, Tensor], change: dict[str, Any]
) -> None:
    wrong = tiny_network()
    wrong.base.config = replace(wrong.base.config, **change)
    error = (run_base(wrong, base_arrays) - base_arrays["out"]).abs().max()
    assert error > 10 * FORWARD_ATOL


def test_inner_tensors_are_the_references(network: TransferNetwork, base_arrays: dict[str, Tensor]) -> None:
    base, a = network.base, base_arrays
    size = tuple(a["x"].shape[2:])

    def tokens(name: str) -> Tensor:  # T, H, W, B, D in the reference
        return a[name].flatten(0, 2).transpose(0, 1)

    padding = F.interpolate(a["padding_mask"], size=size[1:])[:, :, None].expand(-1, -1, size[0], -1, -1)
    x = torch.cat([a["x"], a["condition_mask"], padding], dim=1)
    context = base.prepare(a["text"], size, 30.0)
    with torch.inference_mode():
        embedded, time = base.embed(x), base.time_embed(a["timesteps"])
        assert_parity(embedded, tokens("dbg_x_embed_THWBD"))
        assert_parity(time[0], a["dbg_affline_emb"])
        assert_parity(time[1], a["dbg_adaln_lora"])
        assert_parity(context.positions, tokens("dbg_extra_pos_THWBD")[0])
        for index in range(len(base.blocks)):
            embedded = base.run_block(index, embedded, time, context)
            assert_parity(embedded, tokens(f"dbg_block{index}_THWBD"))


def test_tiny_angles_are_the_references(network: TransferNetwork, base_arrays: dict[str, Tensor]) -> None:
    angles = rope_angles(network.base.config, (3, 4, 6), 30.0)
    assert_parity(torch.cat([angles, angles], dim=-1), base_arrays["dbg_rope_L11D"].squeeze())


@pytest.mark.parametrize("config", [TransformerConfig(), ControlConfig()], ids=["base_t2", "ctrl_t1"])
@pytest.mark.parametrize(("precision", "name"), [("fp32", "float32"), ("bf16", "bfloat16")])
@pytest.mark.parametrize(("size", "grid"), [("960x960", (16, 60, 60)), ("704x1280", (16, 80, 44))])
def test_7b_angles_are_the_references(
    rope_arrays: dict[str, Tensor],
    config: TransformerConfig,
    precision: Any,
    name: str,
    size: str,
    grid: tuple[int, int, int],
) -> None:
    network = "base_t2" if config.rope_ratios[0] == 2 else "ctrl_t1"
    angles = rope_angles(replace(config, rope_precision=precision), grid, 30.0).reshape(*grid, -1)
    axes = {"t": angles[:, 0, 0], "h": angles[0, :, 0], "w": angles[0, 0, :]}
    for axis, values in axes.items():
        expected = rope_arrays[f"{network}_{name}_{size}_{axis}"]
        torch.testing.assert_close(torch.cat([values, values], dim=-1), expected, rtol=0, atol=0)


DIFFUSERS_NAMES = {  # official -> diffusers, replaced in this order
    "t_embedder.1": "time_embed.t_embedder",
    "affline_norm": "time_embed.norm",
    ".blocks.0.block.attn": ".attn1",
    ".blocks.1.block.attn": ".attn2",
    ".blocks.2.block": ".ff",
    ".blocks.0.adaLN_modulation.": ".norm1.linear_",
    ".blocks.1.adaLN_modulation.": ".norm2.linear_",
    ".blocks.2.adaLN_modulation.": ".norm3.linear_",
    "to_q.0": "to_q",
    "to_q.1": "norm_q",
    "to_k.0": "to_k",
    "to_k.1": "norm_k",
    "to_v.0": "to_v",
    "layer1": "net.0.proj",
    "layer2": "net.2",
    "proj.1": "proj",
    "extra_pos_embedder": "learnable_pos_embed",
    "x_embedder": "patch_embed",
    "final_layer.adaLN_modulation.": "norm_out.linear_",
    "final_layer.linear": "proj_out",
    "blocks.block": "transformer_blocks.",
}


class _Resize:
    """Stands in for the one torchvision module that diffusers' class calls."""

    class InterpolationMode:
        NEAREST = "nearest"

    class functional:  # noqa: N801
        @staticmethod
        def resize(mask: Tensor, size: Any, interpolation: str) -> Tensor:
            return F.interpolate(mask, size=tuple(size), mode=interpolation)


def test_diffusers_class_agrees(
    network: TransferNetwork,
    base_arrays: dict[str, Tensor],
    official_weights: Callable[[str], dict[str, Tensor]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from diffusers.models.transformers import transformer_cosmos

    monkeypatch.setattr(transformer_cosmos, "transforms", _Resize, raising=False)
    oracle = transformer_cosmos.CosmosTransformer3DModel(
        in_channels=17,
        out_channels=16,
        num_attention_heads=4,
        attention_head_dim=32,
        num_layers=4,
        mlp_ratio=4.0,
        text_embed_dim=64,
        adaln_lora_dim=16,
        max_size=(128, 240, 240),
        patch_size=(1, 2, 2),
        rope_scale=(2.0, 1.0, 1.0),
        concat_padding_mask=True,
        extra_pos_embed_type="learnable",
    ).eval()
    state = {}
    for key, value in official_weights("base_model").items():
        name = key.removeprefix("base_model.net.")
        if name.startswith("base_model.logvar") or name == "pos_embedder.seq":
            continue
        for official, theirs in DIFFUSERS_NAMES.items():
            name = name.replace(official, theirs)
        state[name] = value
    oracle.load_state_dict(state, strict=True)
    a = base_arrays
    with torch.inference_mode():
        (expected,) = oracle(
            a["x"],
            a["timesteps"],
            a["text"],
            fps=30,
            condition_mask=a["condition_mask"],
            padding_mask=a["padding_mask"],
            return_dict=False,
        )
    assert_parity(run_base(network, a), expected)


def test_patches_have_the_channel_slowest_going_in_and_fastest_coming_out() -> None:
    x = torch.arange(2 * 3 * 2 * 4 * 6.0).reshape(2, 3, 2, 4, 6)
    tokens = patchify(x, 2)
    assert tokens.shape == (2, 2 * 2 * 3, 12)
    torch.testing.assert_close(tokens[0, 4], x[0, :, 0, 2:4, 2:4].flatten())
    back = unpatchify(tokens.unflatten(-1, (3, 4)).transpose(-1, -2).flatten(-2), (2, 2, 3), 2)
    torch.testing.assert_close(back, x)


def test_sizes_come_from_the_tensors(network: TransferNetwork) -> None:
    assert network.base.config == TransformerConfig(128, 4, 4, 512, 64, 16, 16, 2, (128, 120, 120))
    state = {key: value.detach() for key, value in network.base.state_dict().items()}
    state["positions.t"] = torch.zeros(7, 128)
    assert TransformerConfig.from_state_dict(state, base_fps=30.0).max_size == (7, 120, 120)


def test_7b_layout_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        network = TransferNetwork.from_configs(TransformerConfig(), {"edge": ControlConfig()})
    unused_final_layer = 64 * 4096 + 256 * 4096 + 8192 * 256
    assert sum(p.numel() for p in network.base.parameters()) == 7_236_208_640
    assert sum(p.numel() for p in network.branch("edge").parameters()) + unused_final_layer == 893_497_120


def test_every_attention_backend_agrees_and_leaves_torchs_choice_alone(
    tiny_network: Callable[[], TransferNetwork], base_arrays: dict[str, Tensor]
) -> None:
    from torch.backends import cuda

    def choice() -> tuple[bool, ...]:
        return (cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled())

    network, before = tiny_network(), choice()
    for backend in ("auto", "math", "flash"):
        network.use_attention(backend)  # type: ignore[arg-type]
        assert_parity(run_base(network, base_arrays), base_arrays["out"])
    assert choice() == before


def test_compiled_blocks_share_one_graph_and_give_the_same(
    tiny_network: Callable[[], TransferNetwork], base_arrays: dict[str, Tensor]
) -> None:
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    network, counter = tiny_network(), CompileCounter()
    keys = list(network.state_dict())
    network.compile_blocks(backend=counter, fullgraph=True)
    assert_parity(run_base(network, base_arrays), base_arrays["out"])
    assert counter.frame_count == 1
    assert list(network.state_dict()) == keys


def test_bfloat16_run_stays_near(
    tiny_network: Callable[[], TransferNetwork], base_arrays: dict[str, Tensor]
) -> None:
    out = run_base(tiny_network().to(torch.bfloat16), base_arrays)
    assert out.dtype == torch.bfloat16
    error = (out.float() - base_arrays["out"]).norm() / base_arrays["out"].norm()
    assert error < 0.02  # measured 0.0069


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backend", ["auto", "cudnn", "flash"])
def test_compiled_bfloat16_run_on_the_gpu_stays_near(
    tiny_network: Callable[[], TransferNetwork], base_arrays: dict[str, Tensor], backend: Any
) -> None:
    torch._dynamo.reset()
    network = tiny_network().to("cuda", torch.bfloat16)
    network.use_attention(backend)
    network.compile_blocks()
    out = run_base(network, {name: array.cuda() for name, array in base_arrays.items()}).cpu().float()
    assert (out - base_arrays["out"]).norm() / base_arrays["out"].norm() < 0.02
