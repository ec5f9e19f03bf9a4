"""Procedural episodes: a tabletop ultrasound world, rendered in a simulated and a real look."""

from guided_transfer.scenes.captions import NEGATIVE_CAPTION, caption
from guided_transfer.scenes.export import simulate, write_episode
from guided_transfer.scenes.render import RenderedClip, render_clip
from guided_transfer.scenes.styles import Style, sample_style
from guided_transfer.scenes.world import HELDOUT_SCENE_SEEDS, Scene, sample_scene

__all__ = [
    "HELDOUT_SCENE_SEEDS",
    "NEGATIVE_CAPTION",
    "RenderedClip",
    "Scene",
    "Style",
    "caption",
    "render_clip",
    "sample_scene",
    "sample_style",
    "simulate",
    "write_episode",
]
