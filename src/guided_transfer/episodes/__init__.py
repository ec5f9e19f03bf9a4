"""How does data get in and out? HDF5 episodes, videos, labels."""

from guided_transfer.episodes.check import inspect_file, validate_file, validate_folder
from guided_transfer.episodes.example import make_example_episode
from guided_transfer.episodes.labels import colours_from_labels, labels_from_colours
from guided_transfer.episodes.read import EpisodeFile, episode_files, open_episodes
from guided_transfer.episodes.schema import PRESETS, Schema, natural_key
from guided_transfer.episodes.video import read_video, write_lossless, write_mp4
from guided_transfer.episodes.write import write_transferred

__all__ = [
    "PRESETS",
    "EpisodeFile",
    "Schema",
    "colours_from_labels",
    "episode_files",
    "inspect_file",
    "labels_from_colours",
    "make_example_episode",
    "natural_key",
    "open_episodes",
    "read_video",
    "validate_file",
    "validate_folder",
    "write_lossless",
    "write_mp4",
    "write_transferred",
]
