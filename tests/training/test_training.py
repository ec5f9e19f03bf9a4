"""Every stage at a size for two CPU cores: the real code, the loss falls, and what comes out loads."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from guided_transfer import scenes
from guided_transfer.errors import CheckpointError, UsageError
from guided_transfer.models.checkpoint import load_network
from guided_transfer.models.fast_layers import accelerate
from guided_transfer.models.text import load_text_encoder
from guided_transfer.models.tokenizer import load_tokenizer
from guided_transfer.models.tree import CheckpointTree
from guided_transfer.training import latents, package, tokenizer, transformer, vocabulary
from guided_transfer.training.budget import Budget, learning_rate_shape
from guided_transfer.training.data import STACKED_SUFFIX, SceneFeed, render_scene_clip, to_model
from guided_transfer.training.ema import Ema
from guided_transfer.training.graphed import GraphedStep
from guided_transfer.training.muon import Muon, orthogonalise
from guided_transfer.training.pool import RECOLOURED_SHARE, Composite, Pool
from guided_transfer.training.samples import Clips, Samples
from guided_transfer.training.snapshot import Position, Snapshot

CHANNELS = {"encoder_channels": (8, 8, 8), "decoder_channels": (8, 8, 8, 8)}
NETWORK = {"channels": 48, "heads": 2, "blocks": 2, "control_blocks": 1, "text_channels": 32, "text_layers": 1}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All stages, one after another."""
    root = tmp_path_factory.mktemp("runs")
    vocabulary.train(vocabulary.VocabularyTraining(root / "tree" / "text_encoder", size=300, captions=50))
    tokenizer.train(tokenizer_settings(root))
    latents.run(
        latents.LatentEncoding(
            root / "tokenizer", root / "latents", scenes=2, looks=2, size_px=64, processes=0, device="cpu"
        )
    )
    transformer.train(settings(root))
    return root


def tokenizer_settings(root: Path) -> tokenizer.TokenizerTraining:
    return tokenizer.TokenizerTraining(
        root / "tokenizer",
        steps=75,
        scenes=2,
        looks=1,
        processes=0,
        size_px=64,
        crop_px=32,
        crop_frames=9,
        crop_batch=2,
        full_batch=2,
        full_share=0.0,
        learning_rate=5e-3,
        device="cpu",
        **CHANNELS,
    )


def settings(root: Path) -> transformer.TransformerTraining:
    return transformer.TransformerTraining(
        root / "latents",
        root / "tree" / "text_encoder",
        root / "transformer",
        steps=150,
        batch_single=4,
        batch_stacked=2,
        device="cpu",
        compile=False,
        **NETWORK,
    )


@pytest.mark.parametrize("stage", ["tokenizer", "transformer"])
def test_the_loss_falls(runs: Path, stage: str) -> None:
    losses = json.loads((runs / stage / f"{stage}_log.json").read_text())["losses"]
    assert len(losses) == 3
    assert losses[-1] < 0.9 * losses[0]


class Killed(Exception):
    """In place of a signal."""


STAGES = {"tokenizer": (tokenizer, tokenizer_settings, 25), "transformer": (transformer, settings, 50)}
PARTS = {"tokenizer": {"model", "ema", "optimizer"}, "transformer": {"model", "ema", "muon", "adamw"}}


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_run_goes_on_where_it_was(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    module, settings_of, stretch = STAGES[stage]
    whole = json.loads((runs / stage / f"{stage}_log.json").read_text())

    def save_and_die(self: Snapshot, position: Position) -> bool:
        self.save(position)
        if position.step == 2 * stretch:
            raise Killed
        return False

    monkeypatch.setattr(module, "REPORT_EVERY_S", 0.0)
    mine = replace(settings_of(runs), out=tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(Snapshot, "save_now_and_then", save_and_die)
        with pytest.raises(Killed):
            module.train(mine)
    assert not (tmp_path / f"{stage}.pt").exists()
    left = torch.load(tmp_path / f"{stage}_state.pt", weights_only=True)
    assert set(left) == PARTS[stage] | {"position"}

    ran = []
    call = GraphedStep.__call__
    monkeypatch.setattr(GraphedStep, "__call__", lambda *inputs: ran.append(1) or call(*inputs))
    path = module.train(mine)
    log = json.loads((tmp_path / f"{stage}_log.json").read_text())
    assert (len(ran), log["steps"]) == (stretch, 3 * stretch)
    assert log["losses"][:2] == pytest.approx(whole["losses"][:2])  # of the process that was killed
    assert log["losses"][2] < 0.5 * (log["losses"][1] + log["losses"][0])  # did not start anew

    before = torch.load(path, weights_only=True)["model"]
    module.train(mine)  # a finished run is at its end
    after = torch.load(path, weights_only=True)["model"]
    assert len(ran) == stretch
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_state_of_a_run_of_other_sizes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    Snapshot(path, {"model": nn.Linear(2, 2)}).save(Position(1, 0.5))
    for parts in ({"model": nn.Linear(3, 3)}, {"net": nn.Linear(2, 2)}):
        with pytest.raises(CheckpointError, match=r"state.pt was left by a run of other sizes; give another --out"):
            Snapshot(path, parts).restore(torch.device("cpu"))


def test_latents_go_on_behind_the_last_part(runs: Path, tmp_path: Path) -> None:
    def run(count: int) -> list[str]:
        latents.run(
            latents.LatentEncoding(
                runs / "tokenizer", tmp_path, count, 1, size_px=64, part_scenes=2, processes=0, device="cpu"
            )
        )
        return sorted(file.name for file in tmp_path.glob("part_*"))

    assert run(3) == ["part_0010000.pt", "part_0010002.pt"]
    first, last = ((tmp_path / name).stat().st_mtime_ns for name in ("part_0010000.pt", "part_0010002.pt"))
    assert run(3) == ["part_0010000.pt", "part_0010002.pt"]
    assert run(4) == ["part_0010000.pt", "part_0010002.pt", "part_0010003.pt"]
    assert (tmp_path / "part_0010000.pt").stat().st_mtime_ns == first
    assert (tmp_path / "part_0010002.pt").stat().st_mtime_ns == last
    assert latents.first_missing(tmp_path, 10_000) == 10_004


def test_every_part_of_a_run_is_restored(tmp_path: Path) -> None:
    def run() -> tuple[nn.Linear, torch.optim.Optimizer, Ema]:
        layer = nn.Linear(4, 4, bias=False)
        return layer, Muon(layer.parameters(), 0.1), Ema(layer, 0.5)

    def step(layer: nn.Linear, optimizer: torch.optim.Optimizer, ema: Ema) -> None:
        optimizer.zero_grad()
        layer(torch.arange(4.0)).square().sum().backward()
        optimizer.step()
        ema.update(layer)

    def snapshot(layer: nn.Linear, optimizer: torch.optim.Optimizer, ema: Ema) -> Snapshot:
        return Snapshot(tmp_path / "state.pt", {"model": layer, "ema": ema, "optimizer": optimizer})

    first, second = run(), run()
    assert snapshot(*first).restore(torch.device("cpu")) == Position()
    for _ in range(20):  # past the average's warm-up
        step(*first)
    snapshot(*first).save(Position(20, 0.4, [1.0, 0.5]))
    assert snapshot(*second).restore(torch.device("cpu")) == Position(20, 0.4, [1.0, 0.5])
    for either in (first, second):
        step(*either)
    assert torch.equal(first[0].weight, second[0].weight)
    assert torch.equal(first[2].shadow["weight"], second[2].shadow["weight"])


def test_a_budget_knows_what_is_behind() -> None:
    assert Budget(10, behind=0.4).progress(0) == pytest.approx(0.4, abs=1e-3)
    assert Budget(0, steps=50, behind=0.4).progress(20) == 0.4


def test_samples_show_what_was_given_above_what_comes_back(runs: Path, tmp_path: Path) -> None:
    def rows(folder: Path) -> list[np.ndarray]:
        picture = cv2.imread(str(folder / "samples.png"))
        assert picture.shape == (2 * 64, 4 * 64, 3)
        return np.split(picture.astype(int), 2)

    rendered, back = rows(runs / "tokenizer")
    assert rendered.std() > 20
    assert np.abs(rendered - back).mean() > 1
    mine = replace(settings(runs), tokenizer=runs / "tokenizer", out=tmp_path, steps=2)
    transformer.train(mine)
    given, made = rows(tmp_path)
    assert (given != made).any()
    transformer.train(replace(mine, steps=4))  # goes on, and shows the same clips
    assert (rows(tmp_path)[0] == given).all()


def test_samples_are_of_the_averaged_weights(tmp_path: Path) -> None:
    """With weights that always answer the target, the lower row is the upper one."""
    target = torch.rand(2, 16, 2, 8, 8) * 2 - 1
    clips = Clips(target, {"edge": target}, torch.zeros(2, 4, dtype=torch.int64), 30.0)

    class Known(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.level = nn.Parameter(torch.zeros(()))

        def prepare(self, *given: object, **more: object) -> None:
            pass

        def forward(self, x: torch.Tensor, c_noise: torch.Tensor, **more: object) -> torch.Tensor:
            sigma = (4 * c_noise).exp().view(-1, 1, 1, 1, 1)
            norm = (sigma**2 + 0.25).sqrt()
            return (target + self.level - 0.25 / norm * x) * norm / (0.5 * sigma)

    network = Known()
    text = nn.Embedding(1, 1)
    shown = Samples(tmp_path / "samples.png", network, text, clips, lambda z: z[:, :3])
    tower = nn.ModuleDict({"network": network, "text": text})
    shown.write(Ema(tower, 0.9))
    picture = cv2.imread(str(tmp_path / "samples.png"))
    assert np.abs(picture[:8].astype(int) - picture[8:]).max() <= 1
    nn.init.constant_(network.level, 0.5)  # the average's weights are shown, not those of the copy
    shown.write(Ema(tower, 0.9))
    assert (cv2.imread(str(tmp_path / "samples.png"))[8:].astype(int) - picture[8:]).max() > 50


def test_latents_are_cached_for_both_kinds_of_clips(runs: Path) -> None:
    data = torch.load(runs / "latents" / "part_0010000.pt", weights_only=True)
    assert data["single"]["real"].shape == (1, 2, 2, 16, 5, 8, 8)  # scenes, looks, views
    assert data["stacked"]["real"].shape == (1, 2, 1, 16, 5, 16, 8)
    assert data["single"]["edge_sim"].shape == (1, 2, 16, 5, 8, 8)
    mean, std = torch.load(runs / "latents" / "mean_std.pt", weights_only=True)
    z = latents.normalise(data["single"]["real"].float(), mean, std)
    assert float(z.mean()) == pytest.approx(0, abs=1e-3)
    assert float(z.std()) == pytest.approx(0.5, abs=0.01)


def test_parts_written_meanwhile_are_taken_in(runs: Path, tmp_path: Path) -> None:
    for name in ("part_0010000.pt", "mean_std.pt"):
        shutil.copy(runs / "latents" / name, tmp_path)
    tower = transformer.text_tower(settings(runs))
    cache = transformer.Latents(tmp_path, tower, torch.device("cpu"))
    assert cache.scenes == 2
    shutil.copy(runs / "latents" / "part_0010000.pt", tmp_path / "part_0010002.pt")
    cache.grow()
    assert cache.scenes == 4
    assert torch.equal(*cache.streams["single"]["real"])
    target, hints, tokens = cache.draw("single", 5, settings(runs))
    assert target.shape == hints["edge"].shape == (5, 16, 5, 8, 8)
    assert len(tokens) == 5
    with pytest.raises(CheckpointError, match=r"part_\*\.pt"):
        transformer.Latents(tmp_path / "nothing", tower, torch.device("cpu"))


def test_latents_of_two_encoders_never_share_a_folder(tmp_path: Path) -> None:
    def vae() -> object:
        return tokenizer.build(tokenizer.TokenizerTraining(Path(), **CHANNELS))

    first = vae()
    latents.claim_folder(tmp_path, first)
    for parameter in first.decoder.parameters():
        nn.init.zeros_(parameter)
    latents.claim_folder(tmp_path, first)  # a decoder makes no latent
    with pytest.raises(CheckpointError, match="of another encoder"):
        latents.claim_folder(tmp_path, vae())


def test_scenes_may_be_rendered_on_another_device(tmp_path: Path) -> None:
    tree = Path(scenes.__file__).parents[1] / "models" / "bundled"
    with pytest.raises(RuntimeError, match="nowhere"):
        latents.run(
            latents.LatentEncoding(tree, tmp_path, scenes=1, processes=0, device="cpu", render_device="nowhere")
        )


def square(number: int) -> int:
    return number * number


@pytest.mark.parametrize("processes", [0, 2])
def test_a_feed_brings_everything_once_and_in_order(processes: int) -> None:
    feed = SceneFeed(square, range(9), processes=processes)
    results = [next(iter(feed))]
    while len(results) < 9:
        results += feed.ready()
    assert results == [n * n for n in range(9)]
    assert feed.ready() == list(feed) == []
    feed.close()


def test_what_is_packaged_is_what_was_trained(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "TransformerTraining", lambda **_: settings(runs))
    package.run(package.Packaging(runs / "tokenizer", runs / "tree", runs / "transformer"))
    tree = CheckpointTree.open(runs / "tree")
    network = load_network(tree, transformer.CONTROLS, device="cpu", dtype=torch.float32)
    trained = torch.load(runs / "transformer" / "transformer.pt", weights_only=True)["model"]
    for name, value in network.state_dict().items():
        assert torch.equal(value, trained[f"network.{name}"].bfloat16().float()), name
    tower = transformer.text_tower(settings(runs))
    package.load_parameters(
        tower, {k.removeprefix("text."): v.bfloat16().float() for k, v in trained.items() if k.startswith("text.")}
    )
    words = ["a torso phantom on an oak table", ""]
    encoded = load_text_encoder(tree, device="cpu", dtype=torch.float32).encode(words)
    with torch.no_grad():
        assert torch.allclose(encoded, tower(tower.tokenise(words)), atol=1e-5)
    video = torch.rand(1, 3, 9, 32, 32) * 2 - 1
    assert load_tokenizer(tree, device="cpu", dtype=torch.float32).encode(video).shape == (1, 16, 2, 4, 4)


def test_training_can_begin_with_packaged_weights(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "TransformerTraining", lambda **_: settings(runs))
    package.run(package.Packaging(runs / "tokenizer", runs / "tree", runs / "transformer"))
    trained = torch.load(runs / "transformer" / "transformer.pt", weights_only=True)["model"]
    network, text = transformer.build(settings(runs)), transformer.text_tower(settings(runs))
    transformer.start_from(runs / "tree", network, text)
    for name, value in nn.ModuleDict({"network": network, "text": text}).named_parameters():
        assert torch.equal(value, trained[name].bfloat16().float()), name
    vae = tokenizer.build(tokenizer.TokenizerTraining(Path(), **CHANNELS))
    tokenizer.start_from(runs / "tree", vae)
    wanted = torch.load(runs / "tokenizer" / "tokenizer.pt", weights_only=True)["model"]
    assert all(torch.equal(value, wanted[name].bfloat16().float()) for name, value in vae.named_parameters())


def test_a_decoder_is_trained_on_without_changing_a_latent(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "TransformerTraining", lambda **_: settings(runs))
    package.run(package.Packaging(runs / "tokenizer", runs / "tree", runs / "transformer"))
    before = load_file(runs / "tree" / "tokenizer" / "model.safetensors")
    kept = {
        file: file.read_bytes()
        for file in (runs / "tree").rglob("*.safetensors")
        if file.name != "model.safetensors"
    }
    more = tokenizer.TokenizerTraining(
        runs / "decoder",
        start_from=runs / "tree",
        decoder_only=True,
        steps=50,
        scenes=1,
        looks=1,
        processes=0,
        size_px=32,
        crop_px=32,
        crop_frames=9,
        crop_batch=2,
        full_share=0.0,
        device="cpu",
        **CHANNELS,
    )
    tokenizer.train(more)
    losses = json.loads((runs / "decoder" / "tokenizer_log.json").read_text())["losses"]
    assert losses[-1] < losses[0]
    package.run(package.Packaging(runs / "decoder", runs / "tree"))
    after = load_file(runs / "tree" / "tokenizer" / "model.safetensors")
    same = {name for name, value in after.items() if torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in same} >= {"encoder", "quant_conv"}
    assert not {name for name in after.keys() - same if name.startswith(("encoder", "quant_conv"))}
    assert "decoder.conv_out.weight" not in same
    assert all(file.read_bytes() == content for file, content in kept.items())


def test_padding_follows_every_caption_that_the_bundled_network_is_shown() -> None:
    """A prompt that fills all rows makes noise, so no more is read than captions have."""
    tree = CheckpointTree.open("bundled")
    encoder = load_text_encoder(tree, device="cpu", dtype=torch.float32)
    styles = [scenes.sample_style(seed) for seed in range(400)]
    captions = [scenes.caption(style, "room", Random(style.seed)) for style in styles]
    captions += [scenes.caption(style, "wrist", Random(style.seed)) + STACKED_SUFFIX for style in styles]
    assert tree.config.prompt_tokens == package.PROMPT_TOKENS < tree.config.text_tokens
    assert encoder.too_long(captions) == []


def test_latents_are_those_of_a_trees_tokenizer(tmp_path: Path) -> None:
    video = torch.randint(256, (1, 9, 32, 32, 3), dtype=torch.uint8)
    tree = CheckpointTree.open("bundled")
    vae = latents.load_tokenizer(tree.root, "cpu")
    mine = latents.normalise(latents.encode(vae, video).float(), *_mean_std(tree.root, frames=2))
    usual = load_tokenizer(tree, device="cpu", dtype=torch.float32).encode(to_model(video))
    assert torch.allclose(mine, usual, atol=2e-3)  # kept in float16


def _mean_std(root: Path, frames: int) -> tuple[torch.Tensor, ...]:
    saved = load_file(root / "tokenizer" / "mean_std.safetensors")
    return saved["mean"][:, :frames], saved["std"][:, :frames]


def test_a_result_keeps_a_share_of_its_start(runs: Path, tmp_path: Path) -> None:
    vae = tokenizer.build(tokenizer_settings(runs))
    (tmp_path / "tokenizer").mkdir()
    save_file(vae.state_dict(), tmp_path / "tokenizer" / "model.safetensors")
    before = {name: value.detach().clone() for name, value in vae.named_parameters()}
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(1.0)
    more = replace(tokenizer_settings(runs), start_from=tmp_path, start_share=0.25)
    kept = tokenizer.result(more, Ema(vae, 0.9))
    assert kept.keys() == before.keys()
    assert all(torch.allclose(value, before[name] + 0.75, atol=1e-6) for name, value in kept.items())
    with pytest.raises(UsageError, match=r"--start_share 0\.25: of what"):
        tokenizer.train(replace(more, start_from=None))


def test_the_fast_tokenizer_is_the_tokenizer() -> None:
    torch.manual_seed(0)
    vae = tokenizer.build(tokenizer.TokenizerTraining(Path(), **CHANNELS)).eval()
    for parameter in vae.parameters():
        nn.init.normal_(parameter, std=0.3)
    video = torch.randn(2, 3, 17, 32, 48)
    with torch.no_grad():
        latent = vae.encode(video).latent_dist.mode()
        decoded = vae.decode(latent).sample
        accelerate(vae)
        assert torch.allclose(vae.encode(video).latent_dist.mode(), latent, rtol=1e-4, atol=1e-4)
        assert torch.allclose(vae.decode(latent).sample, decoded, rtol=1e-4, atol=1e-4)


def test_some_videos_are_recoloured_and_none_leaves_the_range() -> None:
    x = torch.rand(200, 3, 1, 2, 2) * 2 - 1
    feed = SceneFeed(square, [], processes=0)
    y = Pool(feed, "cpu", torch.Generator().manual_seed(0), {})._recoloured(x)
    same = torch.isclose(x, y, atol=1e-6).flatten(1).all(1).float().mean()
    assert float(1 - same) == pytest.approx(RECOLOURED_SHARE, abs=0.08)
    assert float(y.abs().max()) <= 1


@pytest.fixture(scope="module")
def clips() -> Pool:
    work = partial(render_scene_clip, looks=1, device="cpu", size_px=64, frames=17)
    return Pool(SceneFeed(work, [5, 6], processes=0), "cpu", torch.Generator().manual_seed(0), {"real": 1.0}, 2)


def test_composites_are_of_one_clip_at_the_edge_of_its_foreground(
    clips: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clips, "_recoloured", lambda x: x)
    pair = clips.composite_crops(12, 9, 24)
    assert pair.outside.shape == pair.inside.shape == (12, 3, 9, 24, 24)
    assert pair.foreground.shape == (12, 9, 24, 24)
    small = clips.composite_crops(60, 9, 8).foreground.float().flatten(1).mean(1)  # 18 of 60 where chance decides
    assert int(((small > 0) & (small < 1)).sum()) > 50
    known = [
        torch.cat([to_model(clip.real[0, v]), to_model(clip.sim[v])]).unfold(2, 24, 1).unfold(3, 24, 1)
        for clip in clips.clips
        for v in (0, 1)
    ]
    for outside, inside in zip(pair.outside, pair.inside, strict=True):
        first = torch.cat([outside[:, 0], inside[:, 0]])[:, None, None, None]
        assert any(bool((views == first).flatten(-2).all(-1).all(0).any()) for views in known)
    for foreground, whole in zip(pair.foreground, pair.whole.transpose(1, 2), strict=True):
        assert whole.shape == (9, 3, 24, 24)
        assert foreground.dtype == torch.bool
    inside = pair.foreground[:, None].expand_as(pair.whole)
    assert torch.equal(pair.whole[inside], pair.inside[inside])
    assert torch.equal(pair.whole[~inside], pair.outside[~inside])


def test_stacked_composites_show_the_room_above_the_wrist(clips: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clips, "_recoloured", lambda x: x)
    pair = clips.composite_wholes(2, stacked=True)
    assert pair.outside.shape == (1, 3, 17, 128, 64)
    [clip] = [c for c in clips.clips if torch.equal(to_model(c.sim[0]), pair.inside[0, :, :, :64])]
    assert torch.equal(to_model(clip.real[0, 1]), pair.outside[0, :, :, 64:])
    assert torch.equal(torch.isin(clip.labels[1], torch.tensor([3, 4])), pair.foreground[0, :, 64:])


def test_latents_of_a_composite_are_each_sides_own() -> None:
    torch.manual_seed(0)
    vae = tokenizer.build(tokenizer.TokenizerTraining(Path(), **CHANNELS))
    foreground = torch.zeros(1, 9, 32, 32, dtype=torch.bool)
    foreground[0, 3, 15, 7] = True  # seen in the second latent frame, second row, first column
    pair = Composite(torch.rand(1, 3, 9, 32, 32), torch.rand(1, 3, 9, 32, 32), foreground)
    z, ring = tokenizer.composite_latents(vae, pair)
    outside, inside = tokenizer.encoded(vae, pair.outside), tokenizer.encoded(vae, pair.inside)
    held = torch.zeros(1, 1, 2, 4, 4, dtype=torch.bool)
    held[0, 0, 1, 1, 0] = True
    assert torch.equal(z, torch.where(held, inside, outside))
    assert not torch.equal(inside, outside)
    touched = torch.zeros_like(foreground)
    touched[0, 1:, 8:16, :8] = True  # the pixels of that latent
    assert torch.equal(ring, touched & ~foreground)


def test_a_decoders_batch_is_half_whole_looks_and_half_composites(clips: Pool) -> None:
    torch.manual_seed(0)
    settings = replace(tokenizer_settings(Path()), decoder_only=True, crop_batch=4, crop_px=24, crop_frames=9)
    vae = tokenizer.build(settings)
    z, x, foreground, ring, noise = tokenizer.draw_batch(settings, clips, vae, whole=False, stacked=False)
    assert (len(z), len(x), len(foreground)) == (4, 4, 4)
    assert noise.shape == z.shape == (4, 16, 2, 3, 3)
    assert torch.allclose(z[:2], tokenizer.encoded(vae, x[:2]), atol=1e-5)
    assert not foreground[:2].any()
    assert foreground[2:].flatten(1).any(1).all()
    assert foreground.shape == ring.shape == (4, 9, 24, 24)
    assert not ring[:2].any()
    assert ring[2:].flatten(1).any(1).all()
    assert not (ring * foreground).any()


@pytest.mark.parametrize(("share", "composites"), [(0.25, 1), (0.75, 3)])
def test_the_share_of_composites_is_a_setting(clips: Pool, share: float, composites: int) -> None:
    settings = replace(tokenizer_settings(Path()), decoder_only=True, crop_batch=4, crop_px=24, crop_frames=9)
    vae = tokenizer.build(settings)
    settings = replace(settings, composite_share=share)
    _, _, foreground, _, _ = tokenizer.draw_batch(settings, clips, vae, whole=False, stacked=False)
    assert not foreground[: 4 - composites].any()
    assert foreground[4 - composites :].flatten(1).any(1).all()


@pytest.mark.parametrize("wrong", [{"composite_share": 0.0}, {"composite_share": 1.0}, {"full_batch": 1}])
def test_a_decoder_that_would_see_one_kind_alone_is_refused(wrong: dict[str, float]) -> None:
    settings = replace(tokenizer_settings(Path()), **{"crop_batch": 4, "full_batch": 4, **wrong})
    tokenizer.check(settings)
    with pytest.raises(UsageError, match=r"--composite_share .* so at least one and not all of them"):
        tokenizer.check(replace(settings, decoder_only=True))


def test_the_foreground_of_a_composite_counts_by_its_own_error() -> None:
    x = torch.zeros(2, 3, 1, 4, 4)
    y, mask = x.clone(), torch.zeros(2, 1, 4, 4)
    mask[0, 0, :2] = 1
    y[0, :, 0, 0] = 0.5  # half of what counts
    y[0, :, 0, 3] = 9.0  # does not count
    assert float(tokenizer.masked_rms(y, x, mask)) == pytest.approx((0.125**0.5 + 1e-3) / 2, rel=1e-3)


def test_the_ring_around_a_foreground_counts_half_of_what_the_foreground_does() -> None:
    x, y = torch.zeros(1, 3, 2, 4, 4), torch.zeros(1, 3, 2, 4, 4)
    y[..., :2] = 0.25
    part, nothing = torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)
    part[..., 1:3] = 1  # half of it differs
    vae = SimpleNamespace(decoder=lambda z: y, post_quant_conv=lambda z: z)
    rest = (vae, 0.0, torch.randn(1, 16, 1, 1, 1), x)
    noise = torch.zeros(1, 16, 1, 1, 1)
    plain, foreground, ring = (
        float(tokenizer.decoder_loss(*rest, *parts, noise))
        for parts in ((nothing, nothing), (part, nothing), (nothing, part))
    )
    own = (0.25**2 / 2 + 1e-6) ** 0.5
    assert foreground - plain == pytest.approx(own - 1e-3, rel=1e-3)
    assert ring - plain == pytest.approx((own - 1e-3) / 2, rel=1e-3)


def test_muon_brings_singular_values_near_one() -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(3, 24, 16)))
    assert float(values.min()) > 0.6
    assert float(values.max()) < 1.3


def test_muon_fits_a_linear_map() -> None:
    torch.manual_seed(0)
    layer, wanted = nn.Linear(8, 8, bias=False), torch.randn(8, 8)
    optimizer, x = Muon(layer.parameters(), lr=0.05, weight_decay=0.0), torch.randn(64, 8)
    losses = []
    for _ in range(100):
        loss = (layer(x) - x @ wanted.T).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.05 * losses[0]


def test_a_step_leaves_gradients_of_parameters_and_inputs() -> None:
    layer, x = nn.Linear(3, 1), torch.randn(5, 3, requires_grad=True)
    step = GraphedStep(lambda x: layer(x).square().sum(), list(layer.parameters()), (x,))
    for _ in range(2):  # gradients must not pile up
        loss = step(x)
    expected = torch.autograd.grad(layer(x).square().sum(), [layer.weight, x])
    assert float(loss) == pytest.approx(float(layer(x).square().sum()))
    assert torch.allclose(layer.weight.grad, expected[0])
    assert torch.allclose(step.input_gradients[0], expected[1])


def test_ema_follows_and_is_restored() -> None:
    layer = nn.Linear(2, 2)
    ema = Ema(layer, 0.5)
    start = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight += 1.0
    ema.update(layer)
    weight = 1 - min(0.5, 1 / 11)
    assert torch.allclose(ema.state_dict()["weight"], start + weight)
    other = Ema(nn.Linear(2, 2), 0.5)
    other.load_state_dict(ema.state_dict())
    assert torch.equal(other.state_dict()["weight"], ema.state_dict()["weight"])


def test_learning_rate_warms_up_and_ends_at_zero() -> None:
    assert learning_rate_shape(0.0, 0) == pytest.approx(0.01)
    assert learning_rate_shape(0.3, 1000) == 1.0
    assert learning_rate_shape(1.0, 1000) == 0.0
