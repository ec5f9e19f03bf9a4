"""Every argument of the integration's table does what the table says; those of rooms to come say so."""

import json
import re
from pathlib import Path

import av
import numpy as np
import pytest
from tiny_run import NUM_FRAMES, SIZE_PX, same

from guided_transfer.cli.arguments import GROUP_OF, parse_transfer
from guided_transfer.cli.main import main
from guided_transfer.cli.resolve import resolve
from guided_transfer.cli.settings import NEGATIVE_PROMPT, REFERENCE_CONFIG
from guided_transfer.episodes import make_example_episode, read_video, write_mp4
from guided_transfer.prompts.load import BUNDLED_PROMPTS, EXAMPLE_PROMPTS, load_prompts
from guided_transfer.two_view import JOINT_SUFFIX

TABLE = {
    "prompt": "",
    "negative_prompt": NEGATIVE_PROMPT,
    "input_video_path": "",
    "num_input_frames": 1,
    "sigma_max": 80.0,
    "blur_strength": "medium",
    "canny_threshold": "medium",
    "controlnet_specs": "inference_cosmos_transfer1_two_views.json",
    "checkpoint_dir": "",  # ./checkpoints where that exists, else bundled
    "tokenizer_dir": "Cosmos-Tokenize1-CV8x8x8-720p",
    "video_save_folder": "outputs/",
    "num_steps": 35,
    "guidance": 5.0,
    "fps": None,  # the episode's own, else 30
    "height": None,  # the source's, which is 224 in the integration
    "width": None,
    "seed": 1,
    "num_gpus": 1,
    "offload_diffusion_transformer": False,
    "offload_text_encoder_model": False,
    "offload_guardrail_models": True,
    "upsample_prompt": False,
    "offload_prompt_upsampler": False,
    "source_data_dir": "",
    "output_data_dir": "",
    "save_name_offset": 0,
    "foreground_label": "3,4",
    "sigma_threshold": 1.2866,
    "concat_video_second_view": True,
    "fill_missing_pixels": True,
    "model_config_file": REFERENCE_CONFIG,
}


def parsed(*words):
    return parse_transfer(words, prog="transfer", about="").over()


def test_the_table_has_31_arguments_with_these_defaults():
    settings = parsed().model_dump()
    assert len(TABLE) == 31
    assert NEGATIVE_PROMPT.startswith("The video captures a game playing, ")
    assert {name: settings[GROUP_OF[name]][name] for name in TABLE} == TABLE


def test_the_readme_lists_them_all():
    lines = (Path(__file__).parents[2] / "README.md").read_text().splitlines()
    names = [
        name for line in lines if line.startswith("| `--") for name in re.findall(r"`--(\w+)`", line.split("|")[1])
    ]
    assert sorted(names) == sorted(TABLE)


def specs(tmp_path, **content):
    file = tmp_path / "specs.json"
    file.write_text(json.dumps(content))
    return file


def changes(transfer, baseline, *arguments):
    """Both views differ from the baseline's."""
    rgb = transfer(*arguments).rgb()
    return not any(same(rgb[:, view], baseline.rgb()[:, view]) for view in (0, 1))


def test_the_same_command_gives_the_same_pictures(transfer, baseline):
    assert same(transfer().rgb(), baseline.rgb())


def test_prompt_is_a_text(transfer, baseline):
    run = transfer("--prompt", "a ward")
    assert not same(run.rgb(), baseline.rgb())
    assert (run.folder / "data_0_room_view.txt").read_text() == "a ward\n"


def test_prompt_is_a_file_of_pairs(transfer, tmp_path):
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps({"only": {"top_view_prompt": "from above", "bottom_view_prompt": "from below"}}))
    run = transfer("--prompt", file)
    assert run.view("room")["prompt"] == "from above"
    assert run.view("wrist")["prompt"] == "from below"


def test_a_prompt_that_is_not_given_is_told_from_an_empty_one(episodes):
    words = ["--source_data_dir", str(episodes), "--checkpoint_dir", "bundled"]
    for more, why in (([], "no --prompt is given"), (["--prompt", ""], "--prompt is empty")):
        [note] = resolve(parse_transfer([*words, *more], prog="transfer", about="")).notes
        assert note == f"{why}: each episode takes one of the packaged {BUNDLED_PROMPTS}"


def test_prompt_left_empty_takes_a_packaged_example_and_says_so(transfer, capsys):
    run = transfer("--prompt", "", "--no_quiet", "--json", "--dry_run")
    said = [json.loads(text) for text in capsys.readouterr().out.splitlines() if text.startswith("{")]
    notes = [event["text"] for event in said if event["event"] == "note"]
    assert f"--prompt is empty: each episode takes one of the packaged {EXAMPLE_PROMPTS}" in notes
    run = transfer("--prompt", "")
    room, wrist = (run.view(name)["prompt"] for name in ("room", "wrist"))
    assert (room, wrist) in [(prompt.room, prompt.wrist) for prompt in load_prompts(EXAMPLE_PROMPTS)]


def test_negative_prompt(transfer, baseline):
    assert changes(transfer, baseline, "--negative_prompt", "blue")
    # An empty one is an unconditional pass, not the positive prompt once more.
    assert not same(transfer("--negative_prompt", "").rgb(), transfer("--guidance", "0").rgb())


def test_guidance_0_asks_for_no_negative_prompt(transfer):
    without = transfer("--guidance", "0")
    assert same(without.rgb(), transfer("--guidance", "0", "--negative_prompt", "blue").rgb())


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("sigma_max", 20),
        ("canny_threshold", "very_high"),
        ("num_steps", 3),
        ("guidance", 2),
        ("fps", 10),
        ("seed", 2),
        ("foreground_label", "1"),
        ("sigma_threshold", 0),
    ],
)
def test_both_pictures_depend_on(transfer, baseline, argument, value):
    assert changes(transfer, baseline, f"--{argument}", value)


def test_match_rim(transfer, baseline):
    assert changes(transfer, baseline, "--match_rim")
    assert same(baseline.rgb(), transfer("--no_match_rim").rgb())


@pytest.mark.parametrize(
    ("words", "idle"),
    [
        (["--match_rim"], False),
        (["--match_rim", "--num_steps", "1"], True),
        (["--match_rim", "--num_steps", "1", "--sigma_max", "3"], True),  # there is no estimate to match to yet
        (["--match_rim", "--sigma_threshold", "4"], True),
        (["--no_match_rim", "--sigma_threshold", "4"], False),
        (["--sigma_threshold", "4"], False),  # the checkpoint's own, and nobody asked
    ],
)
def test_a_rim_that_is_never_matched_is_told(episodes, words, idle):
    fixed = ["--source_data_dir", str(episodes), "--checkpoint_dir", "bundled", "--prompt", "a ward"]
    notes = resolve(parse_transfer([*fixed, *words], prog="transfer", about="")).notes
    assert [note.startswith("match_rim changes nothing") for note in notes] == [True] * idle


def test_num_input_frames_decides_where_a_clip_begins(transfer, tmp_path, tiny_tree):
    source = tmp_path / "long"
    source.mkdir()
    make_example_episode(source / "data_0.hdf5", 26, height_px=SIZE_PX, width_px=SIZE_PX)
    sizes = tmp_path / "sizes.yaml"
    sizes.write_text((tiny_tree / "tiny.yaml").read_text().replace("clip_frames: 9", "clip_frames: 17"))
    one, nine = (transfer("--model_config_file", sizes, "--num_input_frames", n, source=source) for n in ("1", "9"))
    assert (one.view()["num_clips"], nine.view()["num_clips"]) == (2, 3)
    room_of_one, room_of_nine = one.rgb()[:, 0], nine.rgb()[:, 0]
    assert len(room_of_one) == len(room_of_nine) == 26
    assert same(room_of_one[:17], room_of_nine[:17])
    assert not same(room_of_one[17:], room_of_nine[17:])


def test_blur_strength(transfer, tmp_path):
    blur = specs(tmp_path, vis={"control_weight": 1.0})
    runs = [
        transfer("--controlnet_specs", blur, "--blur_strength", strength).rgb() for strength in ("none", "high")
    ]
    assert not same(*runs)


def test_controlnet_specs_sets_weights_and_what_the_command_line_leaves_unset(transfer, baseline, tmp_path):
    weights = {"edge": {"control_weight": 0.1}, "depth": {"control_weight": 0.1}, "seg": {"control_weight": 0}}
    assert changes(transfer, baseline, "--controlnet_specs", specs(tmp_path, **weights))
    file = specs(tmp_path, **weights, num_steps=5, seed=9)
    settings = transfer("--controlnet_specs", file).record()["settings"]
    assert settings["seed"] == 9
    assert settings["num_steps"] == 2  # on the command line


@pytest.mark.parametrize("is_there", [False, True])
def test_checkpoint_dir_that_is_missing_says_what_to_download(episodes, tmp_path, capsys, is_there):
    """And one that is there, but empty."""
    folder = tmp_path / "tree"
    if is_there:
        for part in ("google-t5/t5-11b", "nvidia/Cosmos-Tokenize1-CV8x8x8-720p"):
            (folder / part).mkdir(parents=True)
    words = ["transfer", "--source_data_dir", str(episodes), "--checkpoint_dir", str(folder), "--guardrail", "off"]
    assert main([*words, "--output_data_dir", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert str(folder) in error
    assert f"`guided-transfer checkpoints download --output_dir {folder}` fetches what belongs there" in error
    assert "hf download" not in error
    assert "`--checkpoint_dir bundled` needs nothing" in error
    assert not (tmp_path / "out").exists()


def test_checkpoint_dir_unset_is_the_folder_checkpoints(transfer, tiny_tree, tmp_path, baseline):
    (tmp_path / "checkpoints").symlink_to(tiny_tree)
    run = transfer("--checkpoint_dir", "")
    assert same(run.rgb(), baseline.rgb())


def test_tokenizer_dir(transfer, baseline, tiny_tree):
    from safetensors.torch import load_file, save_file

    official = tiny_tree / "nvidia" / "Cosmos-Tokenize1-CV8x8x8-720p"
    other = tiny_tree / "other_tokenizer"
    if not other.exists():
        other.mkdir()
        (other / "mean_std.pt").write_bytes((official / "mean_std.pt").read_bytes())
        weights = load_file(official / "model.safetensors")
        save_file({name: 1.1 * value for name, value in weights.items()}, other / "model.safetensors")
    assert same(transfer("--tokenizer_dir", official.name).rgb(), baseline.rgb())
    assert changes(transfer, baseline, "--tokenizer_dir", other.name)
    transfer("--tokenizer_dir", "nowhere", expect=1)


def test_height_and_width_change_the_mp4_alone(transfer, baseline):
    run = transfer("--height", 40, "--width", 48)
    assert same(run.rgb(), baseline.rgb())
    assert read_video(run.folder / "data_0_wrist_view.mp4")[0].shape == (NUM_FRAMES, 40, 48, 3)
    assert read_video(baseline.folder / "data_0_wrist_view.mp4")[0].shape == (NUM_FRAMES, SIZE_PX, SIZE_PX, 3)


def test_fps_is_the_mp4s_rate_and_the_episodes_own_by_default(transfer, baseline):
    def rate(run):
        with av.open(str(run.folder / "data_0_room_view.mp4")) as container:
            return container.streams.video[0].average_rate

    assert rate(baseline) == 30
    assert rate(transfer("--fps", 12)) == 12


def test_upsample_prompt_stops_where_there_is_no_upsampler(transfer, capsys):
    transfer("--upsample_prompt", expect=1)
    said = capsys.readouterr().err
    assert "Cosmos-UpsamplePrompt1-12B-Transfer/consolidated.safetensors" in said
    assert "--only upsampler" in said


@pytest.mark.parametrize(
    "flag",
    [
        "offload_diffusion_transformer",
        "offload_text_encoder_model",
        "offload_guardrail_models",
        "offload_prompt_upsampler",
    ],
)
def test_offloading_changes_no_picture(transfer, baseline, flag):
    assert same(transfer(f"--{flag}").rgb(), baseline.rgb())
    assert same(transfer(f"--{flag}", "False").rgb(), baseline.rgb())


def test_output_data_dir_left_out_is_a_new_folder_beside_the_source(tmp_path, tiny):
    source = tmp_path / "recorded"
    source.mkdir()
    make_example_episode(source / "data_0.hdf5", NUM_FRAMES, height_px=SIZE_PX, width_px=SIZE_PX)
    before = (source / "data_0.hdf5").read_bytes()
    assert main(["transfer", "--source_data_dir", str(source), *tiny]) == 0
    assert (tmp_path / "recorded_transferred" / "data_0.hdf5").is_file()
    assert (source / "data_0.hdf5").read_bytes() == before
    assert len(list(source.iterdir())) == 1


def test_output_data_dir_is_never_the_source(episodes, tiny, capsys):
    words = ["transfer", "--source_data_dir", str(episodes), "--output_data_dir", str(episodes)]
    assert main([*words, *tiny]) == 1
    assert "folder of the source episodes" in capsys.readouterr().err


def test_save_name_offset(transfer, baseline):
    run = transfer("--save_name_offset", 40)
    assert same(run.rgb("data_40"), baseline.rgb())
    assert (run.folder / "data_40_wrist_view.mp4").is_file()


def test_foreground_label_empty_holds_nothing(transfer):
    free = transfer("--foreground_label", "")
    assert not same(free.rgb(), transfer("--sigma_threshold", 0).rgb())
    # Nothing is held in the room view, whatever the threshold.
    assert same(free.rgb()[:, 0], transfer("--foreground_label", "", "--sigma_threshold", 0).rgb()[:, 0])


def test_concat_video_second_view(transfer, baseline):
    alone = transfer("--no_concat_video_second_view")
    assert baseline.view("wrist")["told"].endswith(JOINT_SUFFIX)
    assert baseline.view("wrist")["model_size"] == [64, 32]
    assert not alone.view("wrist")["told"].endswith(JOINT_SUFFIX)
    assert alone.view("wrist")["model_size"] == [32, 32]
    assert same(alone.rgb()[:, 0], baseline.rgb()[:, 0])
    assert not same(alone.rgb()[:, 1], baseline.rgb()[:, 1])


def test_fill_missing_pixels(transfer, baseline):
    holes = transfer("--fill_missing_pixels", "False")
    assert baseline.view("wrist")["warp"]["zones"]["filled"] > 0
    assert holes.view("wrist")["warp"]["zones"]["filled"] == 0
    assert not same(holes.rgb()[:, 1], baseline.rgb()[:, 1])


def test_model_config_file_overrides_the_checkpoint(transfer, baseline, tmp_path):
    larger = tmp_path / "larger.yaml"
    larger.write_text("{clip_frames: 9, text_tokens: 16, native_sizes: [[48, 48], [96, 48]], numerics: exact}")
    run = transfer("--model_config_file", larger)
    assert run.view()["model_size"] == [48, 48]
    assert baseline.view()["model_size"] == [32, 32]


def test_model_config_file_is_never_executed(transfer, tmp_path, capsys):
    code = tmp_path / "config.py"
    code.write_text("raise SystemExit('executed')")
    transfer("--model_config_file", code, expect=1)
    assert "not executed" in capsys.readouterr().err


def test_model_config_file_names_its_bad_key(transfer, tmp_path, capsys):
    file = tmp_path / "sizes.yaml"
    file.write_text("clip_length: 9")
    transfer("--model_config_file", file, expect=1)
    assert "clip_frames" in capsys.readouterr().err


@pytest.fixture
def video(tmp_path, episodes):
    frames = np.random.default_rng(0).integers(0, 255, (NUM_FRAMES, SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
    import torch

    return write_mp4(tmp_path / "walk.mp4", torch.from_numpy(frames), 12)


def test_input_video_path_and_video_save_folder(tmp_path, tiny, video):
    edges = specs(tmp_path, edge={"control_weight": 1.0})
    words = ["transfer", "--input_video_path", str(video), "--controlnet_specs", str(edges), *tiny]
    assert main([*words, "--video_save_folder", str(tmp_path / "mine")]) == 0
    rgb, fps = read_video(tmp_path / "mine" / "walk.mp4")
    assert rgb.shape == (NUM_FRAMES, SIZE_PX, SIZE_PX, 3)
    assert fps == 12
    assert main(words) == 0
    assert (tmp_path / "outputs" / "walk.mp4").is_file()
    assert main(words) == 1  # it exists now
    assert main([*words, "--overwrite"]) == 0


def test_a_video_counts_as_done(tmp_path, tiny, video, capsys):
    edges = specs(tmp_path, edge={"control_weight": 1.0})
    words = ["transfer", "--input_video_path", str(video), "--controlnet_specs", str(edges), *tiny, "--json"]
    words.remove("--quiet")
    assert main(words) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds.count("done") == 1
    assert kinds.index("done") > kinds.index("start")


@pytest.mark.parametrize("name", ["height", "width"])
def test_a_size_that_no_mp4_can_have(name, tmp_path, tiny, video, capsys):
    edges = specs(tmp_path, edge={"control_weight": 1.0})
    words = ["transfer", "--input_video_path", str(video), "--controlnet_specs", str(edges), *tiny]
    assert main([*words, f"--{name}", "101"]) == 1
    assert f"{name} is 101; accepted are even numbers, which H.264 can store: 102" in capsys.readouterr().err
    assert not (tmp_path / "outputs").exists()


def test_a_mask_holds_part_of_a_video(tmp_path, tiny, video):
    edges = specs(tmp_path, edge={"control_weight": 1.0})
    words = ["transfer", "--input_video_path", str(video), "--controlnet_specs", str(edges), *tiny, "--overwrite"]
    assert main(words) == 0
    free = read_video(tmp_path / "outputs" / "walk.mp4")[0]
    assert main([*words, "--foreground_mask", str(video)]) == 0
    assert not same(read_video(tmp_path / "outputs" / "walk.mp4")[0], free)


def test_a_video_without_a_depth_picture_says_what_to_give(tiny, video, capsys):
    assert main(["transfer", "--input_video_path", str(video), *tiny]) == 1
    error = capsys.readouterr().err
    assert "the depth control without depth.input_control needs depth-anything/Depth-Anything-V2-Small-hf" in error
    assert "--only depth_anything" in error
    assert (
        'A --controlnet_specs file with the edge alone needs no such model: {"edge": {"control_weight": 1}}'
        in error
    )


def test_the_way_out_without_a_depth_picture_is_one(tiny, video, tmp_path):
    (tmp_path / "edge.json").write_text('{"edge": {"control_weight": 1}}')
    words = ["transfer", "--input_video_path", str(video), "--controlnet_specs", str(tmp_path / "edge.json"), *tiny]
    assert main([*words, "--dry_run"]) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--preview", "--preview is for episodes, and one video comes in: --dry_run says"),
        (
            "--output_data_dir mine",
            "--output_data_dir 'mine' is for episodes, and one video comes in: --video_save_folder",
        ),
        (
            "--foreground_label 3",
            "--foreground_label '3' is for episodes, and one video comes in: a video has no labels",
        ),
    ],
)
def test_what_only_episodes_have_is_not_ignored_for_a_video(tiny, video, tmp_path, capsys, words, said):
    edges = specs(tmp_path, edge={"control_weight": 1.0})
    command = ["transfer", "--input_video_path", str(video), "--controlnet_specs", str(edges), *tiny]
    assert main([*command, *words.split()]) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "outputs").exists()
    assert main([*command, "--no_preview", "--foreground_label", "", "--dry_run"]) == 0
