"""Control branches and their weights against the reference's numbers."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from guided_transfer.models.control import ControlConfig, normalise_weights, weight_volumes
from guided_transfer.models.network import TransferNetwork

FORWARD_ATOL = 2e-5
BF16 = torch.bfloat16
SIZE = (3, 8, 12)
I4H_WEIGHTS = {"edge": 0.5, "depth": 0.75, "seg": 0.75}


def assert_parity(actual: Tensor, expected: Tensor, atol: float = FORWARD_ATOL) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


def run(
    network: TransferNetwork,
    arrays: dict[str, Tensor],
    weights: Mapping[str, float | Tensor],
    *,
    weight_dtype: torch.dtype = BF16,
    masks: bool = True,
) -> Tensor:
    """One forward with the hints that have a weight; the fixtures' network rounds weights to bfloat16."""
    hints = {kind: arrays[f"hint_{kind}"] for kind in weights}
    padding = arrays["padding_mask"] if masks else None
    rounds = TransferNetwork(network.base, dict(network.branches.items()), weight_dtype=weight_dtype)  # type: ignore[arg-type]
    with torch.inference_mode():
        conditioning = rounds.prepare(
            arrays["text"], hints, weights, fps=30.0, padding_mask=padding, latent_size=SIZE
        )
        return rounds(arrays["x"], arrays["timesteps"], conditioning, arrays["condition_mask"] if masks else None)


def maps(arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"edge": arrays["map0_THW"], "depth": arrays["map1_THW"], "seg": arrays["map2_HW"]}


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("no_control", {}),
        ("single_edge_w1", {"edge": 1.0}),
        ("multi3_i4h", I4H_WEIGHTS),
        ("multi3_small", {"edge": 0.2, "depth": 0.3, "seg": 0.1}),
    ],
)
def test_scalar_weights_give_the_references_output(
    network: TransferNetwork, control_arrays: dict[str, Tensor], name: str, weights: dict[str, float]
) -> None:
    assert_parity(run(network, control_arrays, weights), control_arrays[name])


@pytest.mark.parametrize(
    ("name", "weights"),
    [("single_edge_w04", {"edge": 0.4}), ("multi2_edge_depth", {"edge": 0.4, "depth": 0.6})],
)
def test_weights_that_the_fixture_did_not_round_give_the_references_output(
    network: TransferNetwork, control_arrays: dict[str, Tensor], name: str, weights: dict[str, float]
) -> None:
    assert_parity(run(network, control_arrays, weights, weight_dtype=torch.float32), control_arrays[name])


def test_output_without_masks_is_the_references(
    network: TransferNetwork, control_arrays: dict[str, Tensor]
) -> None:
    assert_parity(
        run(network, control_arrays, {"edge": 1.0}, masks=False), control_arrays["single_edge_w1_zero_masks"]
    )


@pytest.mark.parametrize("name", ["single_edge_map", "multi3_map", "multi3_map_mixed"])
def test_weight_maps_give_the_references_output(
    network: TransferNetwork, control_arrays: dict[str, Tensor], name: str
) -> None:
    edge, depth, seg = maps(control_arrays).values()
    weights: dict[str, dict[str, float | Tensor]] = {
        "single_edge_map": {"edge": edge},
        "multi3_map": {"edge": edge, "depth": depth, "seg": seg},
        "multi3_map_mixed": {"edge": edge, "depth": 0.75, "seg": 1.0},
    }
    assert_parity(run(network, control_arrays, weights[name]), control_arrays[name])


def test_residuals_are_the_references(network: TransferNetwork, control_arrays: dict[str, Tensor]) -> None:
    a = control_arrays
    padding = torch.nn.functional.interpolate(a["padding_mask"], size=SIZE[1:])[:, :, None].expand(
        -1, -1, 3, -1, -1
    )
    x = torch.cat([a["x"], a["condition_mask"], padding], dim=1)
    total = torch.zeros(2, 1, 72, 128)
    with torch.inference_mode():
        for kind, weight in zip(("edge", "depth", "seg"), a["norm_out_i4h"], strict=True):
            branch = network.branch(kind)
            hint = branch.hint_tokens(a[f"hint_{kind}"], padding)
            total += torch.stack(branch(x, a["timesteps"], branch.prepare(a["text"], SIZE, 30.0), hint, weight))
    for block in (0, 1):
        expected = a[f"dbg_residual_multi3_i4h_block{block}_THWBD"].flatten(0, 2).transpose(0, 1)
        assert_parity(total[block], expected)


def test_tolerance_tells_a_wrong_rotary_ratio_of_the_controls(
    tiny_network: Callable[[], TransferNetwork], control_arrays: dict[str, Tensor]
) -> None:
    wrong = tiny_network()
    for kind in wrong.branches:
        branch = wrong.branch(kind)
        branch.config = replace(branch.config, rope_ratios=(2.0, 1.0, 1.0))
    error = (run(wrong, control_arrays, I4H_WEIGHTS) - control_arrays["multi3_i4h"]).abs().max()
    assert 10 * FORWARD_ATOL < error < 1e-3


@pytest.mark.parametrize("name", ["i4h", "small", "one"])
def test_scalar_weights_are_normalised_as_in_the_reference(control_arrays: dict[str, Tensor], name: str) -> None:
    factors = normalise_weights(control_arrays[f"norm_in_{name}"].tolist(), SIZE, 2, dtype=BF16)
    assert_parity(torch.cat(factors).flatten().float(), control_arrays[f"norm_out_{name}"], atol=0)


def test_weight_maps_are_normalised_as_in_the_reference(control_arrays: dict[str, Tensor]) -> None:
    edge, depth, seg = maps(control_arrays).values()
    cases: dict[str, list[float | Tensor]] = {
        "maps_norm_resized": [edge, depth, seg],
        "maps_mixed_norm_resized": [edge, 0.75, 1.0],
        "map_single_norm_resized": [edge],
    }
    for name, weights in cases.items():
        factors = torch.stack(normalise_weights(weights, SIZE, 2, dtype=BF16)).float()
        assert_parity(factors.reshape(control_arrays[name].shape), control_arrays[name], atol=4e-3)


def test_full_resolution_maps_are_normalised_as_in_the_reference(
    control_arrays: dict[str, Tensor], full_maps: Tensor
) -> None:
    weights = [weight.to(BF16) for weight in maps(control_arrays).values()]
    volumes = torch.stack(weight_volumes(weights, SIZE))
    assert_parity(volumes[:, 0, 0, ::4].float(), full_maps, atol=4e-3)


def test_weights_are_left_alone_where_their_sum_is_at_most_one() -> None:
    corner = torch.zeros(17, 64, 96)
    corner[:, :32] = 1.0
    edge, depth = (factor.reshape(3, 4, 6) for factor in normalise_weights([corner, 0.5], SIZE, 2))
    torch.testing.assert_close(edge[:, :2], torch.full((3, 2, 6), 2 / 3))
    torch.testing.assert_close(depth[:, :2], torch.full((3, 2, 6), 1 / 3))
    torch.testing.assert_close(depth[:, 2:], torch.full((3, 2, 6), 0.5))
    assert not edge[:, 2:].any()


def test_a_maps_first_frame_stands_alone_and_its_frames_follow_the_clip() -> None:
    ramp = torch.arange(17.0)[:, None, None].expand(17, 64, 96) / 100
    (factor,) = normalise_weights([ramp], SIZE, 2)
    # frames 1..8 and 9..16 are sampled at their middles, between frames 4 and 5, and 12 and 13
    torch.testing.assert_close(factor.reshape(3, 24)[:, 0], torch.tensor([0.0, 0.045, 0.125]))


def test_a_still_maps_onto_one_latent_frame() -> None:
    (factor,) = normalise_weights([torch.full((64, 96), 0.25)], (1, 8, 12), 2)
    torch.testing.assert_close(factor, torch.full((1, 24, 1), 0.25))


@given(st.lists(st.floats(0, 3, width=32), min_size=1, max_size=5))
def test_normalised_weights_keep_their_ratios_and_sum_to_at_most_one(weights: list[float]) -> None:
    shared = torch.cat(normalise_weights(weights, SIZE, 2)).flatten().double()
    total = sum(weights)
    torch.testing.assert_close(shared, torch.tensor(weights).double() / max(total, 1), rtol=1e-5, atol=1e-7)


def test_weights_per_sample_are_normalised_per_sample() -> None:
    edge, depth = normalise_weights([torch.tensor([1.0, 0.0, 0.5]), torch.tensor([1.0, 0.3, 0.5])], SIZE, 2)
    assert edge.shape == (3, 1, 1)
    torch.testing.assert_close(edge.flatten(), torch.tensor([0.5, 0.0, 0.5]))
    torch.testing.assert_close(depth.flatten(), torch.tensor([0.5, 0.3, 0.5]))


def test_a_batch_of_maps_beside_weights_per_sample() -> None:
    per_sample = torch.tensor([1.0, 0.25])
    edge, depth = normalise_weights([torch.ones(2, 17, 64, 96), per_sample], SIZE, 2)
    assert edge.shape == depth.shape == (2, 72, 1)
    torch.testing.assert_close(edge[:, 0, 0], torch.tensor([0.5, 0.8]))
    torch.testing.assert_close(depth[:, 0, 0], torch.tensor([0.5, 0.2]))


def test_negative_parts_of_a_map_count_as_zero() -> None:
    (factor,) = normalise_weights([torch.full((17, 64, 96), -1.0)], SIZE, 2)
    assert not factor.any()


def test_sizes_come_from_the_tensors(network: TransferNetwork) -> None:
    expected = ControlConfig(128, 4, 2, 512, 64, 16, 16, 2, (128, 120, 120))
    assert network.branch("seg").config == expected
    assert expected.hint_channels == 128
    assert expected.hint_widths == (16, 16, 32, 32, 96, 96, 256)
