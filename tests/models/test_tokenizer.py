import copy
import re
import zipfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from guided_transfer.errors import CheckpointError, UsageError
from guided_transfer.models.tokenizer import VideoTokenizer, load_tokenizer
from guided_transfer.models.tree import CheckpointConfig, CheckpointTree

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

LATENT_FRAMES = 4
DECODER_BLOCKS = 3


class Tree(nn.Module):
    """A module with parameters of any names, to be written as TorchScript."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    @classmethod
    def of(cls, weights):
        root = cls()
        for key, value in weights.items():
            node = root
            *path, leaf = key.split(".")
            for part in path:
                if part not in node._modules:
                    node.add_module(part, cls())
                node = node._modules[part]
            node.register_buffer(leaf, value)
        return root


def official_name(key):
    """From diffusers' names back to those of the official archives."""
    for piece, official in (
        (r"down_blocks\.", "down."),
        (r"up_blocks\.(\d+)", lambda m: f"up.{DECODER_BLOCKS - 1 - int(m[1])}"),
        (r"mid_block\.resnets\.0", "mid.block_1"),
        (r"mid_block\.resnets\.1", "mid.block_2"),
        (r"mid_block\.attentions\.0", "mid.attn_1.0"),
        (r"mid_block\.temp_attentions\.0", "mid.attn_1.1"),
        (r"\.resnets\.", ".block."),
        (r"downsamplers\.0", "downsample"),
        (r"upsamplers\.0", "upsample"),
        (r"\.to_([qkv])\.", r".\1.conv3d."),
        (r"\.to_out\.0\.", ".proj_out.conv3d."),
        (r"\.conv_s\.", ".0.conv3d."),
        (r"\.conv_t\.", ".1.conv3d."),
        (r"conv_shortcut\.", "nin_shortcut.conv3d."),
        (r"(sample\.conv\d)\.", r"\1.conv3d."),
        (r"quant_conv\.", "quant_conv.conv3d."),
    ):
        key = re.sub(piece, official, key)
    return key


@pytest.fixture(scope="module")
def autoencoder():
    from diffusers import AutoencoderKLCosmos

    torch.manual_seed(0)
    return AutoencoderKLCosmos(
        encoder_block_out_channels=(4, 6, 8),
        decode_block_out_channels=(4, 6, 6, 8),
        num_layers=1,
        latents_mean=None,
        latents_std=None,
    ).eval()


@pytest.fixture(scope="module")
def official(autoencoder):
    """The weights under official names, with the constants that official files hold as well."""
    weights = {official_name(key): value for key, value in autoencoder.state_dict().items()}
    return weights | {"encoder.patcher3d.wavelets": torch.ones(2), "decoder.unpatcher3d._arange": torch.arange(2)}


@pytest.fixture(scope="module")
def statistics():
    random = torch.Generator().manual_seed(1)
    mean = torch.randn(16, LATENT_FRAMES, generator=random)
    return mean, 0.5 + torch.rand(16, LATENT_FRAMES, generator=random)


@pytest.fixture
def folder(tmp_path, statistics):
    """A tokenizer's folder that lacks the weights."""
    torch.save(tuple(value.flatten() for value in statistics), tmp_path / "mean_std.pt")
    (tmp_path / "config.json").write_text('{"architectures": ["CausalVideoTokenizer"]}')
    return tmp_path


@pytest.fixture(scope="module")
def tokenizer(autoencoder, statistics):
    return VideoTokenizer(autoencoder, *statistics)


def make_video(num_frames=17, seed=0):
    return torch.rand(1, 3, num_frames, 16, 24, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def write_jit(weights, file):
    torch.jit.script(Tree.of(weights)).save(file)


def write_halves(weights, folder):
    decoder = {key: value for key, value in weights.items() if key.startswith(("decoder.", "post_quant_conv."))}
    write_jit(decoder, folder / "decoder.jit")
    write_jit({key: value for key, value in weights.items() if key not in decoder}, folder / "encoder.jit")


def write_diffusers(weights, folder, autoencoder):
    autoencoder.save_config(folder)
    save_file(autoencoder.state_dict(), folder / "model.safetensors")


WRITERS = {
    "autoencoder.jit": lambda weights, folder, _: write_jit(weights, folder / "autoencoder.jit"),
    "encoder.jit and decoder.jit": lambda weights, folder, _: write_halves(weights, folder),
    "model.pt": lambda weights, folder, _: torch.save(weights, folder / "model.pt"),
    "model.safetensors": lambda weights, folder, _: save_file(weights, folder / "model.safetensors"),
    "diffusers": write_diffusers,
}


@pytest.mark.parametrize("files", WRITERS)
def test_every_form_of_the_weights_gives_the_same_latents(files, folder, official, autoencoder, tokenizer):
    WRITERS[files](official, folder, autoencoder)
    loaded = VideoTokenizer.from_folder(folder)
    assert torch.equal(loaded.encode(make_video()), tokenizer.encode(make_video()))


def test_statistics_in_safetensors_are_the_same(folder, official, statistics, tokenizer):
    (folder / "mean_std.pt").unlink()
    save_file(dict(zip(("mean", "std"), statistics, strict=True)), folder / "mean_std.safetensors")
    torch.save(official, folder / "model.pt")
    assert torch.equal(VideoTokenizer.from_folder(folder).encode(make_video()), tokenizer.encode(make_video()))


def test_a_tree_says_where_and_in_which_numerics(folder, official):
    torch.save(official, folder / "model.pt")
    tree = CheckpointTree(folder.parent, CheckpointConfig(tokenizer=folder.name, numerics="reference"))
    tokenizer = load_tokenizer(tree, device="cpu", dtype=torch.bfloat16)
    latents = tokenizer.encode(make_video())
    assert latents.dtype == torch.bfloat16 == tokenizer.decode(latents).dtype
    assert tokenizer.autoencoder.dtype == torch.float32  # a CPU cannot run all of it in bfloat16


def test_latents_are_normalised_per_channel_and_frame_and_halved(tokenizer, autoencoder, statistics):
    video = make_video(25)
    with torch.no_grad():
        raw = autoencoder.encode(video).latent_dist.mode()
    mean, std = statistics
    latents = tokenizer.encode(video)
    assert latents.shape == (1, 16, 4, 2, 3)
    for channel, frame in ((0, 0), (3, 2), (15, 3)):
        expected = (raw[0, channel, frame] - mean[channel, frame]) / std[channel, frame] * 0.5
        torch.testing.assert_close(latents[0, channel, frame], expected, rtol=1e-5, atol=1e-6)


def test_decoding_undoes_the_normalisation(tokenizer, autoencoder):
    video = make_video()
    with torch.no_grad():
        expected = autoencoder.decode(autoencoder.encode(video).latent_dist.mode()).sample
    decoded = tokenizer.decode(tokenizer.encode(video))
    assert decoded.shape == video.shape
    torch.testing.assert_close(decoded, expected, rtol=1e-4, atol=1e-4)


def test_a_short_clip_uses_the_statistics_of_the_first_frames(tokenizer):
    """The autoencoder is causal, so the first frames of a clip alone give its first latents."""
    video = make_video(25)
    torch.testing.assert_close(
        tokenizer.encode(video[:, :, :9]), tokenizer.encode(video)[:, :, :2], rtol=1e-4, atol=1e-5
    )


SMALL = {"encoder_block_out_channels": (4, 6, 8), "decode_block_out_channels": (4, 6, 6, 8), "num_layers": 1}


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        (SMALL, (2, 3, 17, 32, 48)),
        (
            SMALL | {"patch_size": 2, "spatial_compression_ratio": 4, "temporal_compression_ratio": 4},
            (1, 3, 9, 16, 24),
        ),
        (SMALL | {"patch_type": "rearrange"}, (1, 3, 9, 32, 24)),
        (
            {"encoder_block_out_channels": (16, 32, 64, 64), "decode_block_out_channels": (32, 64, 64, 64)},
            (1, 3, 9, 32, 24),
        ),
    ],
    ids=["small", "other patch", "not Haar", "official, narrow"],
)
def test_the_fast_layers_are_the_layers_of_diffusers(sizes, shape):
    from diffusers import AutoencoderKLCosmos

    from guided_transfer.models.fast_layers import accelerate

    torch.manual_seed(0)
    plain = AutoencoderKLCosmos(**sizes).double().eval()
    fast = accelerate(copy.deepcopy(plain))
    assert list(fast.state_dict()) == list(plain.state_dict())
    assert {type(layer).__module__ for layer in fast.decoder.conv_in.children()} == {accelerate.__module__}
    video = torch.randn(shape, dtype=torch.float64)
    with torch.no_grad():
        latents = plain.encode(video).latent_dist.mode()
        torch.testing.assert_close(fast.encode(video).latent_dist.mode(), latents, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(fast.decode(latents).sample, plain.decode(latents).sample, rtol=1e-6, atol=1e-6)


@settings(max_examples=5, deadline=None)
@given(st.integers(2, 4), st.data())
def test_a_video_does_not_depend_on_its_batch(tokenizer, batch, data):
    videos = torch.cat([make_video(9, seed) for seed in range(batch)])
    chosen = data.draw(st.integers(0, batch - 1))
    assert torch.equal(tokenizer.encode(videos)[chosen], tokenizer.encode(videos[chosen : chosen + 1])[0])


@pytest.mark.parametrize(("shape", "message"), [
    ((1, 3, 16, 16, 16), r"1 \+ 8k frames, got 16; the nearest are 9 and 17"),
    ((1, 3, 0, 16, 16), "the nearest are 1 and 9"),
    ((1, 3, 9, 16, 20), "multiples of 8, got 16 x 20"),
    ((1, 3, 33, 16, 16), "5 latent frames is longer than the tokenizer's own of 4 \\(25 frames"),
    ((3, 9, 16, 16), r"\[B, 3, T, H, W\], got \[3, 9, 16, 16\]"),
])  # fmt: skip
def test_a_video_that_cannot_be_encoded_is_refused_with_its_size(tokenizer, shape, message):
    with pytest.raises(UsageError, match=message):
        tokenizer.encode(torch.zeros(shape))


def test_latents_of_too_many_frames_are_refused(tokenizer):
    with pytest.raises(UsageError, match="5 latent frames"):
        tokenizer.decode(torch.zeros(1, 16, 5, 2, 2))


def test_an_archives_code_is_never_looked_at(folder, official, tokenizer):
    """Rewritten with nonsense for code, the archive cannot be loaded by torch.jit but reads the same as data."""
    write_jit(official, folder / "whole.jit")
    with (
        zipfile.ZipFile(folder / "whole.jit") as source,
        zipfile.ZipFile(folder / "autoencoder.jit", "w", zipfile.ZIP_STORED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, b"import os; os._exit(1)" if "/code/" in name else source.read(name))
    loaded = VideoTokenizer.from_folder(folder)
    assert torch.equal(loaded.encode(make_video()), tokenizer.encode(make_video()))


def replace_record(file, ending, content):
    with zipfile.ZipFile(file) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, value in records.items():
            archive.writestr(name, content if name.endswith(ending) else value)


def test_an_archive_whose_pickle_calls_functions_is_refused(folder, official, capsys):
    import pickle

    class Code:
        def __reduce__(self):
            return print, ("this must never run",)

    write_jit(official, folder / "autoencoder.jit")
    replace_record(folder / "autoencoder.jit", "/data.pkl", pickle.dumps(Code(), protocol=2))
    with pytest.raises(CheckpointError, match=r"autoencoder\.jit: holds more than modules.*print"):
        VideoTokenizer.from_folder(folder)
    assert "never run" not in capsys.readouterr().out


@pytest.mark.parametrize("file", ["autoencoder.jit", "model.pt", "model.safetensors"])
@pytest.mark.parametrize("share", [0.2, 0.7])
def test_a_file_cut_short_is_named(file, share, folder, official, autoencoder):
    WRITERS[file](official, folder, autoencoder)
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match=f"{file}: damaged or cut short"):
        VideoTokenizer.from_folder(folder)


def test_keys_that_do_not_fit_are_one_error(folder, official):
    weights = dict(official)
    del weights["quant_conv.conv3d.bias"]
    weights["encoder.conv_out.0.conv3d.bias"] = torch.ones(3)
    weights["encoder.surprise"] = torch.ones(3)
    torch.save(weights, folder / "model.pt")
    with pytest.raises(CheckpointError) as caught:
        VideoTokenizer.from_folder(folder)
    for part in (
        "model.pt",
        "missing: quant_conv.bias",
        "unexpected: encoder.surprise",
        "encoder.conv_out.conv_s.bias is [3], must be [16]",
    ):
        assert part in str(caught.value)


def test_other_weights_are_refused(folder):
    torch.save({"net.x_embedder.proj.1.weight": torch.ones(2, 2)}, folder / "model.pt")
    with pytest.raises(CheckpointError, match=r"model\.pt: not the weights of a video tokenizer"):
        VideoTokenizer.from_folder(folder)


def test_missing_weights_are_asked_for_by_name(folder):
    with pytest.raises(CheckpointError, match=r"autoencoder\.jit, encoder\.jit with decoder\.jit, model\.pt"):
        VideoTokenizer.from_folder(folder)


@pytest.mark.parametrize(
    "content", [None, torch.ones(3), (torch.ones(256), torch.zeros(256)), (torch.ones(7),) * 2]
)
def test_statistics_that_cannot_be_used_are_named(content, folder, official):
    torch.save(official, folder / "model.pt")
    (folder / "mean_std.pt").unlink()
    if content is not None:
        torch.save(content, folder / "mean_std.pt")
    with pytest.raises(CheckpointError, match=r"mean_std\.pt"):
        VideoTokenizer.from_folder(folder)
