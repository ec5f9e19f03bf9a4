"""Spec files of Cosmos-Transfer1 from end to end on a whole tiny tree, and one clear error for each wrong one."""

import json
import re

import cv2
import jsonschema
import numpy as np
import pytest
import torch

from guided_transfer.cli import process, resolve, resolved
from guided_transfer.cli.arguments import parse_transfer
from guided_transfer.cli.main import main
from guided_transfer.episodes import read_video, write_lossless

FRAMES, SIZE = 9, (32, 32)


@pytest.fixture(scope="module")
def tree(tiny_tree, official_weights, tmp_path_factory):
    """The tiny tree with every file that specs ask for: all branches, the driving network, the distilled one."""
    root = tmp_path_factory.mktemp("whole")
    for part in ("google-t5", "nvidia/Cosmos-Tokenize1-CV8x8x8-720p"):
        (root / part).parent.mkdir(parents=True, exist_ok=True)
        (root / part).symlink_to(tiny_tree / part)
    base, edge = official_weights("base_model"), official_weights("edge_control")
    network, driving = (root / "nvidia" / f"Cosmos-Transfer1-7B{end}" for end in ("", "-Sample-AV"))
    for folder, kinds in (
        (network, ("edge", "vis", "depth", "seg", "keypoint", "4kupscaler")),
        (driving, ("hdmap", "lidar")),
    ):
        folder.mkdir()
        torch.save(base, folder / "base_model.pt")
        for kind in kinds:
            known = f"{kind}_control" if kind in ("depth", "seg") else "edge_control"
            torch.save(official_weights(known), folder / f"{kind}_control.pt")
    distilled = {f"net.{key}": value for key, value in base.items()}
    distilled |= {re.sub(r"^net\.", "net.net_ctrl.", key): -value for key, value in edge.items()}
    torch.save(distilled, network / "edge_control_distilled.pt")
    (root / "tiny.yaml").write_text((tiny_tree / "tiny.yaml").read_text())
    return root


def picture(seed, num_frames=FRAMES, size=SIZE):
    """A smooth moving picture [T, H, W, 3]."""
    coarse = torch.rand(1, 3, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(coarse, (num_frames, *size), mode="trilinear")
    return (smooth[0].permute(1, 2, 3, 0) * 255).to(torch.uint8)


@pytest.fixture
def files(tmp_path):
    """Videos and weight maps that specs name, in a folder that is not the working directory."""
    folder = tmp_path / "assets"
    folder.mkdir()
    for seed, name in enumerate(("input", "depth", "seg", "keypoint", "hdmap", "lidar")):
        write_lossless(folder / f"{name}.mkv", picture(seed), 30)
    half = np.zeros((FRAMES, 8, 8), np.float32)
    half[:, :, :4] = 0.5
    torch.save(torch.from_numpy(half), folder / "map.pt")
    np.save(folder / "map.npy", half)
    np.savez(folder / "map.npz", half)
    levels = torch.from_numpy(half * 255).round().to(torch.uint8)
    write_lossless(folder / "map.mkv", levels[..., None].expand(-1, -1, -1, 3), 30)
    cv2.imwrite(str(folder / "still.png"), picture(9)[0].numpy())
    return folder


@pytest.fixture
def write(files):
    """Write a spec file beside the files."""
    count = iter(range(1000))

    def write(**content):
        file = files / f"specs_{next(count)}.json"
        file.write_text(json.dumps(content))
        return file

    return write


@pytest.fixture
def arguments(tree, tmp_path):
    """What every run is given beside its specs."""
    return [
        *("--checkpoint_dir", str(tree), "--model_config_file", str(tree / "tiny.yaml"), "--dtype", "float32"),
        *("--guardrail", "off", "--video_save_folder", str(tmp_path / "out"), "--overwrite", "--cpu_threads", "1"),
    ]


@pytest.fixture
def transfer(arguments, tmp_path):
    """Run a spec file; one step, no negative prompt. Returns the frames and the record."""

    def run(specs, *more):
        words = ["--controlnet_specs", str(specs), *arguments, "--quiet", *map(str, more)]
        quick = [word for name, value in (("num_steps", 1), ("guidance", 0)) for word in (f"--{name}", str(value))]
        given = [] if any(name in json.loads(specs.read_text()) for name in ("num_steps",)) else quick
        assert main(["transfer", *words, *given]) == 0
        (record,) = (tmp_path / "out").glob("*.json")
        frames, fps = read_video(record.with_suffix(".mp4"))
        content = {"name": record.stem, "fps": float(fps), **json.loads(record.read_text())}
        for file in (tmp_path / "out").iterdir():
            file.unlink()
        return frames, content

    return run


VIDEO = {"input_video_path": "input.mkv", "prompt": "a modern office"}
GIVEN = {kind: {"input_control": f"{kind}.mkv", "control_weight": 0.25} for kind in ("depth", "seg", "keypoint")}
EXAMPLES = {
    "one control": {**VIDEO, "edge": {"control_weight": 1.0}},
    "five, three of them given": {
        **VIDEO,
        "keypoint": GIVEN["keypoint"],
        "vis": {"control_weight": 0.25},
        "edge": {"control_weight": "0.25"},
        "depth": GIVEN["depth"],
        "seg": GIVEN["seg"],
    },
    "maps of every format": {
        **VIDEO,
        "vis": {"control_weight": "map.npy"},
        "edge": {"control_weight": "map.pt"},
        "depth": {**GIVEN["depth"], "control_weight": "map.npz"},
        "seg": {**GIVEN["seg"], "control_weight": "map.mkv"},
    },
    "driving, from control videos alone": {
        "prompt": "a suburban street",
        "hdmap": {"control_weight": 0.3, "input_control": "hdmap.mkv"},
        "lidar": {"control_weight": 0.7, "input_control": "lidar.mkv"},
    },
    "arguments in the file": {
        **VIDEO,
        "keypoint": GIVEN["keypoint"],
        "seed": 3,
        "sigma_max": 40.0,
        "canny_threshold": "low",
        "video_save_name": "mine",
    },
    "a still picture as control": {**VIDEO, "depth": {"input_control": "still.png"}},
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_spec_file_of_this_kind_runs(transfer, write, name):
    frames, record = transfer(write(**EXAMPLES[name]))
    assert frames.shape == (FRAMES, *SIZE, 3)
    assert record["fps"] == 30
    assert record["prompt"] == EXAMPLES[name]["prompt"]
    assert record["name"] == EXAMPLES[name].get("video_save_name", "input" if "edge" in name else record["name"])
    assert len(frames.unique()) > 20


def test_upscale_an_odd_size_with_other_controls(transfer, write, files, arguments, capsys):
    write_lossless(files / "input.mkv", picture(0, size=(33, 37)), 30, replace=True)
    write_lossless(files / "seg.mkv", picture(1, size=(33, 37)), 30, replace=True)
    others = {"edge": {"control_weight": "map.npy"}, "seg": GIVEN["seg"]}
    specs = write(input_video_path="input.mkv", num_steps=1, upscale={"control_weight": 0.5}, **others)
    assert main(["specs", "check", str(specs), *arguments]) == 0
    assert "the model works at 32 x 32 in 9 tiles, the result is 96 x 108" in capsys.readouterr().out
    frames, record = transfer(specs, "--guidance", 0)
    assert frames.shape[1:] == (96, 108, 3)  # three times the model's 32 x 32, in the shape of the source
    assert (record["tiles"], record["canvas_size"]) == (9, [80, 80])
    assert record["prompt"] == resolve.UPSCALING_PROMPT


def test_the_packaged_upscaler_specs_and_their_defaults(arguments, files):
    words = ["--controlnet_specs", "inference_upscaler.json", "--input_video_path", str(files / "input.mkv")]
    run = resolve.resolve(parse_transfer([*words, *arguments], prog="", about=""))
    assert run.specs.hints["upscale"].control_weight == 0.5
    assert (run.generation.num_steps, run.generation.sigma_max) == (10, 70.0)
    run = resolve.resolve(parse_transfer([*words, *arguments, "--num_steps", "4"], prog="", about=""))
    assert run.generation.num_steps == 4


def test_the_distilled_model(transfer, write):
    specs = write(**VIDEO, edge={"control_weight": 1.0}, use_distilled=True)
    frames, _ = transfer(specs)
    again, _ = transfer(specs, "--negative_prompt", "blue", "--sigma_max", 5)
    assert torch.equal(frames, again)  # one step from noise: neither counts
    teacher, _ = transfer(write(**VIDEO, edge={"control_weight": 1.0}))
    assert not torch.equal(frames, teacher)
    own = {"control_weight": 1.0, "ckpt_path": "nvidia/Cosmos-Transfer1-7B/edge_control_distilled.pt"}
    named, _ = transfer(write(**VIDEO, edge=own, use_distilled=True))
    assert torch.equal(frames, named)


def test_a_branch_of_its_own(transfer, write, files, official_weights):
    frames, _ = transfer(write(**VIDEO, edge={"control_weight": 1.0}))
    torch.save(official_weights("seg_control"), files / "mine.pt")
    own, _ = transfer(write(**VIDEO, edge={"control_weight": 1.0, "ckpt_path": "mine.pt"}))
    assert not torch.equal(own, frames)


def test_what_weights_mean(transfer, write):
    """A string is its number; zero is the control left out; a sum over one is divided."""

    def made(edge, vis=None):
        others = {} if vis is None else {"vis": {"control_weight": vis}}
        return transfer(write(**VIDEO, edge={"control_weight": edge}, **others))[0]

    named, plain = made("0.5"), made(0.5, vis=0)
    levels = (named.int() - plain.int()).abs().flatten(1).amax(1).tolist()
    assert not any(levels), f"equal settings, yet the frames differ by up to {levels} levels"
    halved = made(0.75, vis=0.25)
    assert torch.equal(made(3, vis=1), halved)
    assert not torch.equal(made(0.75), halved)


@pytest.fixture
def refused(arguments, capsys):
    """The one error that `specs check` and `transfer` both give for a file."""

    def check(specs, *more):
        errors = []
        for words in (["specs", "check", str(specs)], ["transfer", "--controlnet_specs", str(specs)]):
            assert main([*words, *arguments, *more]) == 1
            shown = capsys.readouterr()
            assert not shown.out
            errors.append(shown.err)
        assert errors[0] == errors[1]
        assert errors[0].startswith("error: ")
        assert errors[0].count("\n") == 1
        return errors[0]

    return check


BAD = {
    "a wrong kind": ({**VIDEO, "egde": {}}, "'egde' is no kind of control; did you mean 'edge'?"),
    "a wrong key": (
        {**VIDEO, "edge": {"control_wieght": 1}},
        "control_wieght is no key of a control; did you mean",
    ),
    "a wrong argument": ({**VIDEO, "edge": {}, "guidence": 5}, "'guidence' is no control and no argument; did you"),
    "a negative weight": ({**VIDEO, "edge": {"control_weight": -1}}, "edge.control_weight: must be a number of at"),
    "a missing video": ({"edge": {}, "input_video_path": "gone.mp4"}, "input_video_path 'gone.mp4': no such file"),
    "a missing control": ({**VIDEO, "seg": {"input_control": "gone.mp4"}}, "seg.input_control names 'gone.mp4'"),
    "a missing map": ({**VIDEO, "edge": {"control_weight": "gone.npz"}}, "edge.control_weight names 'gone.npz'"),
    "no video": ({**VIDEO, "seg": {"input_control": "map.npy"}}, "is no video that can be read"),
    "another length": ({**VIDEO, "seg": {"input_control": "long.mkv"}}, "has 12 frames, input_video_path has 9"),
    "another rate": ({**VIDEO, "seg": {"input_control": "slow.mkv"}}, "has 24 frames per second, input_video_path"),
    "another shape": ({**VIDEO, "seg": {"input_control": "wide.mkv"}}, "is 32 x 48 pixels (rows x columns)"),
    "a long map": ({**VIDEO, "edge": {"control_weight": "long.npy"}}, "long.npy has 12 frames, the video has 9"),
    "a map below 0": (
        {**VIDEO, "edge": {"control_weight": "minus.npy"}},
        "minus.npy holds values that are negative",
    ),
    "nothing to start from": (
        {"sigma_max": 40, "depth": {"input_control": "depth.mkv"}},
        "sigma_max is 40, which starts from the input video, but no input_video_path is given",
    ),
    "a driving scene without its map": ({**VIDEO, "hdmap": {}}, "hdmap.input_control is missing"),
}


@pytest.mark.parametrize("name", BAD)
def test_one_clear_error_before_any_checkpoint_is_looked_into(refused, write, files, name, monkeypatch):
    monkeypatch.setattr(resolved, "load_network", None)
    write_lossless(files / "long.mkv", picture(1, 12), 30)
    write_lossless(files / "slow.mkv", picture(1), 24)
    write_lossless(files / "wide.mkv", picture(1, size=(32, 48)), 30)
    np.save(files / "long.npy", np.ones((12, 4, 4), np.float32))
    np.save(files / "minus.npy", np.full((9, 4, 4), -0.1, np.float32))
    content, words = BAD[name]
    assert words in refused(write(**content))


def test_check_names_every_fault_of_a_file(write, arguments, capsys):
    specs = write(**VIDEO, edge={"control_wieght": 1}, seg={"control_weight": "gone.npz"}, num_steps=0)
    assert main(["specs", "check", str(specs), *arguments]) == 1
    error = capsys.readouterr().err
    assert ": 3 faults\n" in error
    for words in (
        "num_steps is 0; accepted is a whole number of at least 1",
        "edge.control_wieght is no key of a control",
        "seg.control_weight names 'gone.npz'",
    ):
        assert error.count(words) == 1


def test_check_names_everything_that_does_not_agree_with_the_video(write, files, arguments, capsys):
    write_lossless(files / "odd.mkv", picture(1, 12, size=(32, 48)), 24)
    np.save(files / "long.npy", np.ones((12, 4, 4), np.float32))
    seg = {"input_control": "odd.mkv", "control_weight": "long.npy"}
    specs = write(**VIDEO, seg=seg, depth={"input_control": "gone.mkv"})
    assert main(["specs", "check", str(specs), *arguments]) == 1
    error = capsys.readouterr().err
    assert "5 faults" in error
    for words in (
        "depth.input_control names 'gone.mkv'",
        "has 12 frames, input_video_path has 9",
        "has 24 frames per second",
        "is 32 x 48 pixels",
        "seg.control_weight",
    ):
        assert words in error


def test_controls_of_two_networks(refused, write):
    hdmap = {"input_control": "hdmap.mkv"}
    assert "one run has one network" in refused(write(**VIDEO, edge={}, hdmap=hdmap))


def test_the_distilled_model_has_edges_alone(refused, write):
    assert "has the control edge alone" in refused(write(**VIDEO, depth=GIVEN["depth"]), "--use_distilled")


def test_a_picture_at_the_models_own_size_belongs_to_any_video(files, write, arguments, capsys):
    """Controls that were computed at the model's size are not of the source's shape."""
    write_lossless(files / "input.mkv", picture(0, size=(32, 40)), 30, replace=True)
    specs = write(**VIDEO, depth=GIVEN["depth"])
    assert main(["specs", "check", str(specs), *arguments]) == 0
    assert "the model works at 32 x 32" in capsys.readouterr().out


def test_check_says_what_would_be_done(write, files, arguments, capsys):
    vis = {"control_weight": 0, "input_control_prompt": "x"}
    specs = write(**VIDEO, edge={"control_weight": 1}, depth={"control_weight": "3", **GIVEN["depth"]}, vis=vis)
    specs.write_text(specs.read_text().replace('"control_weight": 0.25', '"control_weight": "3"'))
    assert main(["specs", "check", str(specs), *arguments, "--canny_threshold", "low", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["source"].startswith(f"{files / 'input.mkv'}: 9 frames, 32 x 32 pixels at 30 per second")
    edge, vis, depth = said["controls"]
    assert (edge["share"], depth["share"], vis["share"]) == (0.25, 0.75, 0)
    assert edge["picture"] == "Canny edges of the RGB, canny_threshold low"
    assert depth["picture"] == str(files / "depth.mkv")
    assert edge["branch"] == "nvidia/Cosmos-Transfer1-7B/edge_control.pt"
    assert vis["branch"] == "not loaded"


def test_check_needs_neither_video_nor_checkpoint(write, capsys):
    specs = write(edge={"control_weight": "map.pt"}, upscale={}, seed=3)
    assert main(["specs", "check", str(specs)]) == 0
    shown = capsys.readouterr().out
    assert "nothing named yet" in shown
    assert "argument: seed = 3" in shown
    assert "none in this checkpoint folder" in shown
    assert "normalised by pixel" in shown


def test_the_integrations_own_file_with_its_placeholders(write, arguments, episodes, tmp_path, capsys):
    """Its source gives way to the folder that is typed; its prompts are found although their folder is not."""
    placeholder = "placeholder_not_needed.mp4"
    specs = write(
        prompt="environments/cosmos_transfer1/config/generated_prompts_two_seperate_views.json",
        input_video_path=placeholder,
        edge={"control_weight": 0.5},
        depth={"control_weight": 0.75, "input_control": placeholder},
        seg={"control_weight": 0.75, "input_control": placeholder},
    )
    folders = ["--source_data_dir", str(episodes), "--output_data_dir", str(tmp_path / "episodes")]
    assert main(["transfer", "--controlnet_specs", str(specs), *arguments, *folders, "--dry_run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (plan["episodes"], list(plan["controls"])) == (1, ["edge", "depth", "seg"])
    assert plan["prompts"] > 1


def test_a_map_that_does_not_fit_an_episode(write, arguments, episodes, tmp_path, capsys, monkeypatch):
    specs = write(edge={"control_weight": "long.npy"})
    np.save(specs.parent / "long.npy", np.ones((12, 4, 4), np.float32))
    monkeypatch.setattr(process, "load_pipeline", None)
    folders = ["--source_data_dir", str(episodes), "--output_data_dir", str(tmp_path / "episodes")]
    assert main(["transfer", "--controlnet_specs", str(specs), *arguments, *folders, "--quiet"]) == 3
    assert "long.npy has 12 frames, the video has 9" in capsys.readouterr().err


def test_check_of_what_episodes_have(write, arguments, episodes, capsys):
    specs = write(depth={"input_control": "placeholder.mp4"}, input_video_path="placeholder.mp4")
    assert main(["specs", "check", str(specs), *arguments, "--source_data_dir", str(episodes)]) == 0
    assert "the episode's depth" in capsys.readouterr().out
    specs = write(upscale={})
    assert main(["specs", "check", str(specs), *arguments, "--source_data_dir", str(episodes)]) == 1
    assert "upscale cannot be computed from an episode" in capsys.readouterr().err


def test_the_schema_accepts_what_runs_and_refuses_what_does_not(capsys):
    assert main(["specs", "schema"]) == 0
    validator = jsonschema.Draft202012Validator(json.loads(capsys.readouterr().out))
    validator.check_schema(validator.schema)
    for content in EXAMPLES.values():
        validator.validate({"$schema": "specs.schema.json", **content})
    for name in ("a wrong kind", "a wrong key", "a wrong argument", "a negative weight"):
        assert not validator.is_valid(BAD[name][0]), name


@pytest.mark.parametrize("words", [[], ["check"], ["chekc", "x.json"]])
def test_other_words_show_the_two_actions(words, capsys):
    assert main(["specs", *words]) == 1
    assert "guided-transfer specs check FILE" in capsys.readouterr().err
