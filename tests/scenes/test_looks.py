"""Materials, light and captions."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch

from guided_transfer import scenes
from guided_transfer.errors import UsageError
from guided_transfer.scenes import captions, styles
from guided_transfer.scenes.materials import PATTERNS, Patch
from guided_transfer.scenes.styles import FLOORS, FURNITURE, LIGHTS, TABLES, WALLS, Material


@pytest.mark.parametrize("name", sorted(PATTERNS))
def test_patterns_are_reflectances_and_fade_with_distance(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.rand(3, 4000, generator=generator) * 2 - 1
    normal = torch.zeros(3, 4000)
    normal[2] = 1
    material = Material(name, (0.7, 0.5, 0.3), (0.3, 0.4, 0.6))
    patch = Patch(q, normal, torch.full((4000,), 1e-3), q + 1, torch.full_like(q, 2))
    near = PATTERNS[name](patch, material)
    far = PATTERNS[name](replace(patch, footprint_m=torch.full((4000,), 10.0)), material)
    assert near.shape == (3, 4000)
    assert torch.isfinite(near).all()
    assert near.min() >= 0
    assert near.max() < 1.1
    if name not in ("screen", "window"):  # one picture each, smaller than a far pixel
        assert far.std(1).max() < 0.06
        assert near.std(1).max() >= far.std(1).max()


def wall_points(across_m: list[float], up_m: list[float], *, width_m: float, height_m: float) -> Patch:
    """A grid of points of one wall, up_m fastest, as a near camera sees them."""
    u, v = (g.flatten() for g in torch.meshgrid(torch.tensor(across_m), torch.tensor(up_m), indexing="ij"))
    at = torch.stack([torch.zeros_like(u), u, v])
    normal = torch.tensor([1.0, 0, 0])[:, None].expand_as(at)
    extent = torch.tensor([1.0, width_m, height_m])[:, None].expand_as(at)
    return Patch(at, normal, torch.full_like(u, 1e-3), at, extent)


@pytest.mark.parametrize("width_m", [3.7, 4.21, 5.0])
def test_what_is_laid_fills_a_wall_in_whole_pieces(width_m: float) -> None:
    """Tiles have joints in every corner and none is cut, in a wall of any size."""
    across, up = [0.0, 0.3, width_m], [0.0, 0.3, 2.62]
    wall = wall_points(across, up, width_m=width_m, height_m=2.62)
    (u, tile_m), (v, _) = wall.laid(0.6, 0.6)
    whole = u.reshape(3, 3)[-1, 0]
    assert whole == whole.round()
    assert v.max() == round(2.62 / 0.6)
    assert (tile_m - 0.6).abs().max() < 0.05
    joint = PATTERNS["tile"](wall, Material("tile", (0.9,) * 3, (0.0,) * 3))[0].reshape(3, 3) < 0.2
    assert joint.int().tolist() == [[1, 1, 1], [1, 0, 1], [1, 1, 1]]


def test_a_rooms_tiles_are_laid_from_its_corners(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the pattern is told lies within the room's bounds, and upright faces at their ends."""
    seen, tile = [], PATTERNS["tile"]
    monkeypatch.setitem(PATTERNS, "tile", lambda patch, material: seen.append(patch) or tile(patch, material))
    scene = scenes.sample_scene(7)
    style = replace(scenes.sample_style(7), wall="white tile", floor="grey vinyl")
    scenes.render_clip(scene, [style], frames=[20], size_px=64)
    (wall,) = seen
    half_m = scene.still.size_m[0]
    assert torch.equal(wall.extent_m, 2 * half_m[:, None].expand_as(wall.extent_m))
    assert wall.from_corner_m.min() > -1e-3
    assert (wall.from_corner_m - wall.extent_m).max() < 1e-3
    across = wall.normal.abs().argmax(0, keepdim=True)
    depth, width = (of.gather(0, across) for of in (wall.from_corner_m, wall.extent_m))
    assert torch.minimum(depth.abs(), (width - depth).abs()).max() < 1e-3


def test_bricks_shift_by_half_their_length_where_the_courses_meet() -> None:
    """Ends of bricks stand straight through a whole course, and in the middle of those above and below."""
    width_m, height_m = 3.6, 2.625  # 12 bricks, 25 courses
    across = [0.15 * k for k in range(25)]
    up = [0.105 * (row + part) for row in range(4) for part in (0.15, 0.5, 0.85)]
    wall = wall_points(across, up, width_m=width_m, height_m=height_m)
    mortar = PATTERNS["brick"](wall, Material("brick", (0.9,) * 3, (0.0,) * 3))[0].reshape(25, 4, 3) < 0.3
    assert (mortar == mortar[..., :1]).all()
    for row in range(4):
        assert mortar[:, row, 0].nonzero()[:, 0].tolist() == list(range(row % 2, 25, 2))


@pytest.mark.parametrize("table", sorted(TABLES))
def test_a_material_looks_alike_from_both_cameras(table: str) -> None:
    """Colours of table points seen in both views, light and gloss included, differ by little."""
    scene = scenes.sample_scene(8)
    style = replace(scenes.sample_style(1), table=table, light="neutral LED panels")
    clip = scenes.render_clip(scene, [style], frames=[20], size_px=112)
    level = [clip.rgb[0, v, 0][clip.labels[v, 0] == 2].float().mean(0) for v in range(2)]
    assert (level[0] - level[1]).abs().max() < 45


def test_still_surfaces_do_not_shimmer() -> None:
    """The room camera and the walls stand still, so only noise may change between frames."""
    scene, style = scenes.sample_scene(6), scenes.sample_style(6)
    rgb = scenes.render_clip(scene, [style], frames=[40, 41], size_px=96)
    wall = (rgb.labels[0] == 0).all(0)
    difference = (rgb.rgb[0, 0, 0].int() - rgb.rgb[0, 0, 1].int()).abs().float()[wall]
    assert difference.mean() < 3


def test_looks_differ_where_they_should() -> None:
    scene, base = scenes.sample_scene(8), scenes.sample_style(1)
    looks = [replace(base, table=t) for t in ("oak wood", "blue fabric drape")]
    clip = scenes.render_clip(scene, looks, frames=[20], size_px=64)
    table = clip.labels[0, 0] == 2
    change = (clip.rgb[0, 0, 0].int() - clip.rgb[1, 0, 0].int()).abs().float().mean(-1)
    assert change[table].mean() > 40
    assert change[clip.labels[0, 0] == 4].mean() < 12


def test_every_value_has_words_and_every_word_belongs_to_a_value() -> None:
    assert set(captions.WALL_WORDS) == set(WALLS)
    assert set(captions.TABLE_WORDS) == set(TABLES)
    assert set(captions.FLOOR_WORDS) == set(FLOORS)
    assert set(captions.LIGHT_WORDS) == set(LIGHTS)
    assert set(captions.FURNITURE_WORDS) == set(FURNITURE)
    assert set(captions.THEME_WORDS) == set(styles.THEMES)
    assert set(captions.ARM_WORDS) == set(styles.ARMS)
    assert set(captions.PHANTOM_WORDS) == set(styles.PHANTOMS)


def test_captions_name_the_factors_as_often_as_promised() -> None:
    style = scenes.sample_style(3)
    texts = [scenes.caption(style, "room", Random(i)) for i in range(400)]

    def share(words: tuple[str, ...]) -> float:
        return sum(any(w in text for w in words) for text in texts) / len(texts)

    assert share(captions.TABLE_WORDS[style.table]) > 0.85
    assert share(captions.WALL_WORDS[style.wall]) > 0.75
    assert share(captions.LIGHT_WORDS[style.light]) > 0.7
    assert 0.4 < share(captions.ARM_WORDS[style.arm]) < 0.6
    assert 0.4 < share(captions.PHANTOM_WORDS[style.phantom]) < 0.6
    assert all("{" not in text and "  " not in text for text in texts)
    assert len(set(texts)) > 300


def test_vocabulary_holds_what_a_user_would_type() -> None:
    rng = Random(0)
    views = ("room", "wrist", "both")
    text = " ".join(scenes.caption(scenes.sample_style(i), views[i % 3], rng) for i in range(3000)).lower()
    words = set(text.replace(".", " ").replace(",", " ").split())
    assert len(words) > 280
    wanted = (
        "laminate stainless steel oak walnut marble granite hospital ward operating office daylight drape brick"
    )
    assert set(wanted.split()) <= words


def test_captions_take_numpy_generators_and_refuse_unknown_views() -> None:
    text = scenes.caption(scenes.sample_style(3), "wrist", np.random.default_rng(0))
    assert type(text) is str
    with pytest.raises(UsageError, match="roof"):
        scenes.caption(scenes.sample_style(3), "roof", Random(0))
