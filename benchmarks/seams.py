"""Does the join of two clips show? Frame differences at the seams against all others, in their standard deviations.

    python benchmarks/seams.py --work /tmp/seams --episodes 4

Simulates held-out episodes of three clips and generates each view by itself with the bundled model (both once; the
decoded clips are kept in the folder), then joins the clips in three ways: as decoded, with the difference of the
shared frame fading out, and as the pipeline does it, which also lets stand still what does so in the simulation.
Then both views of the real job, the wrist view in one picture with the finished room view: "stacked".
A step is the mean absolute difference of the background from one frame to the next, in grey levels, camera motion
taken out by the simulator's depth and poses (`metrics.temporal.static_steps`).
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from guided_transfer.cli.arguments import parse_transfer
from guided_transfer.cli.load import load_pipeline
from guided_transfer.cli.resolve import resolve
from guided_transfer.clips import SEAM_FRAMES, join_clips, still_share
from guided_transfer.episodes.read import open_episodes
from guided_transfer.generation import Progress
from guided_transfer.metrics.temporal import static_steps
from guided_transfer.pipeline import TransferPipeline
from guided_transfer.scenes import simulate
from guided_transfer.two_view import TwoViewSettings, _EpisodeRun, transfer_episode
from guided_transfer.types import Episode, View

NUM_FRAMES = 97
"""Three clips of 33 frames that share one."""

BORDERS = (33, 65)
"""First frames of the second and third clip that are new."""

PROMPT = "a clinic with an oak table and white walls"
SEEDS = {"room": 1, "wrist": 2}
JOINS = ("as decoded", "shared frame fades", "and what is still stays")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for episodes and decoded clips")
    parser.add_argument("--episodes", type=int, default=4)
    parser.add_argument("--views", default="room,wrist")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "seams.json")
    args = parser.parse_args()
    if not (args.work / "data_0.hdf5").exists():
        simulate(args.work, episodes=args.episodes, num_frames=NUM_FRAMES, heldout=True)
    run = resolve(parse_transfer(["--source_data_dir", str(args.work), "--quiet"], prog="seams", about=""))
    pipeline = load_pipeline(run, generation=replace(run.generation, with_ceiling=False))
    rows, stacked = [], []
    for index in range(args.episodes):
        with open_episodes(args.work / f"data_{index}.hdf5") as file:
            episode = file.read(file.demos[0])
        for name in args.views.split(","):
            file_of_clips = args.work / f"clips_{index}_{name}.pt"
            if not file_of_clips.exists():
                torch.save(decoded_clips(pipeline, run.two_view, episode, name), file_of_clips)
            clips = torch.load(file_of_clips)
            rows.append({"episode": index, "view": name, **measured(episode.views[name], clips)})
            print(json.dumps(rows[-1]), flush=True)
        file_of_wrist = args.work / f"stacked_{index}.pt"
        if not file_of_wrist.exists():
            torch.save(stacked_wrist(pipeline, run.two_view, episode), file_of_wrist)
        stacked.append({"episode": index, **measured_video(episode.views["wrist"], torch.load(file_of_wrist))})
        print(json.dumps(stacked[-1]), flush=True)
    worst = {join: round(max(max(row[join]["z"]) for row in rows), 2) for join in JOINS}
    worst["stacked"] = round(max(max(row["z"]) for row in stacked), 2)
    report = {"num_frames": NUM_FRAMES, "fade_frames": SEAM_FRAMES, "worst_z": worst}
    report |= {"sigma_threshold": run.two_view.sigma_threshold, "rows": rows, "stacked": stacked}
    args.output.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(worst))


def decoded_clips(
    pipeline: TransferPipeline, settings: TwoViewSettings, episode: Episode, name: str
) -> list[Tensor]:
    """Every clip of a view as the tokenizer gives it, [1, 3, T, H, W] float16."""
    clips: list[Tensor] = []
    stages = [""]
    decode = pipeline.tokenizer.decode

    def keeping(latents: Tensor) -> Tensor:
        video = decode(latents)
        if stages[-1] == "decode":  # not what is decoded on the way, to match the rim
            clips.append(video)
        return video

    def noting(view: str, progress: Progress) -> None:
        stages.append(progress.stage)

    pipeline.tokenizer.decode = keeping  # type: ignore[method-assign]
    try:
        pipeline.remember(["", PROMPT])
        _EpisodeRun(episode, pipeline, settings, {name: PROMPT}, SEEDS, noting).room_view(name)
    finally:
        pipeline.tokenizer.decode = decode  # type: ignore[method-assign]
    return [clip.half() for clip in clips]


def stacked_wrist(pipeline: TransferPipeline, settings: TwoViewSettings, episode: Episode) -> Tensor:
    """The wrist view [T, H, W, 3] uint8 of the whole job."""
    return transfer_episode(
        episode, pipeline, settings, prompts=dict.fromkeys(episode.views, PROMPT), seeds=SEEDS
    ).rgb["wrist"]


def measured(view: View, clips: list[Tensor]) -> Mapping[str, object]:
    """Steps at the seams and elsewhere, for each way to join."""
    clips = [clip.float() for clip in clips]
    videos = [joined(view, clips, how) for how in JOINS]
    return dict(zip(JOINS, steps_of(view, videos), strict=True))


def measured_video(view: View, video: Tensor) -> Mapping[str, object]:
    """Likewise, of a finished video."""
    return steps_of(view, [video])[0]


def steps_of(view: View, videos: list[Tensor]) -> list[dict[str, object]]:
    """Steps at the seams and elsewhere, in grey levels."""
    labels = view.labels
    assert labels is not None
    background = ~torch.isin(labels, labels.new_tensor([3, 4]))
    found = []
    for steps in static_steps(view, background, videos):
        levels = [255 * step for step in steps if step is not None]
        seams = [levels[border - 1] for border in BORDERS]
        others = [level for index, level in enumerate(levels) if index + 1 not in BORDERS]
        mean, deviation = statistics.fmean(others), statistics.stdev(others)
        found.append(
            {
                "seams": [round(seam, 3) for seam in seams],
                "others_mean": round(mean, 3),
                "others_std": round(deviation, 3),
                "z": [round((seam - mean) / deviation, 2) for seam in seams],
            }
        )
    return found


def joined(view: View, clips: list[Tensor], how: str) -> Tensor:
    """[T, H, W, 3] uint8."""
    parts = [clips[0]]
    for clip, border in zip(clips[1:], BORDERS, strict=True):
        if how != "as decoded":
            still = still_share(view.rgb[border - 1], view.rgb[border], tuple(clip.shape[3:]))
            clip = join_clips(parts[-1][:, :, -1:].clamp(-1, 1), clip, still * (how == JOINS[-1]))
        parts.append(clip[:, :, 1:])
    video = torch.cat(parts, 2)[0, :, : len(view.rgb)].permute(1, 2, 3, 0)
    return ((video.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


if __name__ == "__main__":
    main()
