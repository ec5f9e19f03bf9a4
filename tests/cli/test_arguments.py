"""How a command line is read, and who wins."""

import subprocess
import sys

import pytest

from guided_transfer.cli.arguments import parse_transfer
from guided_transfer.cli.main import COMMANDS, main
from guided_transfer.cli.resolve import find_checkpoint_dir, find_source
from guided_transfer.cli.settings import TransferSettings
from guided_transfer.controls.specs import ControlSpecs
from guided_transfer.errors import UsageError


def line(*words):
    return parse_transfer(words, prog="transfer", about="")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--fill_missing_pixels"], True),
        (["--fill-missing-pixels"], True),
        (["--fill_missing_pixels", "False"], False),
        (["--fill_missing_pixels=false"], False),
        (["--fill_missing_pixels", "True"], True),
        (["--no_fill_missing_pixels"], False),
        (["--no-fill-missing-pixels"], False),
        (["--no_fill_missing_pixels=False"], True),
        ([], True),
    ],
)
def test_booleans_can_be_turned_off(words, expected):
    assert line(*words).over().guidance.fill_missing_pixels is expected


def booleans():
    groups = TransferSettings.model_fields.items()
    return [
        (group, name)
        for group, field in groups
        for name, setting in field.annotation.model_fields.items()
        if setting.annotation is bool
    ]


@pytest.mark.parametrize(("group", "name"), booleans())
@pytest.mark.parametrize("spelled", ["--{} False", "--{}=False", "--no_{}", "--{} True", "--{}"])
def test_every_boolean_means_what_it_says(group, name, spelled):
    settings = line(*spelled.format(name).split()).over()
    assert getattr(getattr(settings, group), name) is not ("False" in spelled or "--no_" in spelled)


def test_a_boolean_takes_no_other_word():
    with pytest.raises(UsageError, match="fill_missing_pixels is 'maybe'"):
        line("--fill_missing_pixels=maybe")


def test_hyphens_and_equals_signs():
    sampling = line("--num-steps=7", "--sigma_max", "70").over().sampling
    assert (sampling.num_steps, sampling.sigma_max) == (7, 70.0)


def test_command_line_then_specs_then_checkpoint_then_table():
    typed = line("--num_steps", "35")  # the table's own default, but typed
    settings = typed.over(
        ("specs.json", {"num_steps": 10, "guidance": 3}),
        ("checkpoint.json", {"num_steps": 12, "guidance": 1.0, "sigma_threshold": 0.15}),
    )
    assert settings.sampling.num_steps == 35
    assert settings.sampling.guidance == 3
    assert settings.guidance.sigma_threshold == 0.15
    assert settings.sampling.sigma_max == 80


def test_an_unknown_name_in_the_specs_gets_its_nearest():
    with pytest.raises(UsageError, match=r"specs.json: 'num_step' is no argument; did you mean 'num_steps'"):
        line().over(("specs.json", {"num_step": 10}))


def test_a_bad_value_in_the_specs_is_named():
    with pytest.raises(UsageError, match=r"specs.json: num_steps is 0"):
        line().over(("specs.json", {"num_steps": 0}))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--num_steps 0", "--num_steps is '0'; accepted is a whole number of at least 1"),
        ("--num-steps=2.5", "--num_steps is '2.5'; accepted is a whole number of at least 1"),
        ("--guidance abc", "--guidance is 'abc'; accepted is a number of at least 0"),
        ("--fps 0", "--fps is '0'; accepted is a number above 0"),
        ("--seed -x", "--seed is '-x'; accepted is a whole number"),
        ("--foreground_label x", "--foreground_label is 'x'; labels are whole numbers 0..255"),
    ],
)
def test_a_bad_value_says_argument_value_and_what_is_accepted(words, said, capsys):
    assert main(["transfer", *words.split()]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {said}")
    assert "pydantic" not in error


def test_other_commands_speak_of_bad_values_alike(capsys):
    assert main(["simulate", "folder", "--episodes", "0"]) == 1
    assert "--episodes is '0'; accepted is a whole number of at least 1" in capsys.readouterr().err


def test_unset_can_be_typed():
    assert line("--fps", "None").over().outputs.fps is None


def test_labels_are_numbers():
    assert line("--foreground_label", " 3, 4 ").over().inputs.foreground_labels == (3, 4)
    with pytest.raises(UsageError, match="foreground_label is 'organ'"):
        line().over(("specs.json", {"foreground_label": "organ"}))


def test_what_cannot_be_read_is_wrong_usage(capsys):
    assert main(["transfer", "--num_steps", "many"]) == 1
    assert main(["transfer", "--no_such_argument", "1"]) == 1
    assert main(["transfre"]) == 1
    capsys.readouterr()


def test_no_source_names_the_newest_recording(tmp_path, capsys):
    for name in ("2025-01-02-10-00-Isaac", "2025-01-03-10-00-Isaac"):
        (tmp_path / "data" / "hdf5" / name).mkdir(parents=True)
    assert main(["transfer"]) == 1
    assert "--source_data_dir data/hdf5/2025-01-03-10-00-Isaac" in capsys.readouterr().err


def test_a_source_that_is_not_there():
    with pytest.raises(UsageError, match="does not exist"):
        find_source(line("--source_data_dir", "missing").over(), ControlSpecs())


def test_one_input_is_enough(tmp_path):
    with pytest.raises(UsageError, match="both given"):
        find_source(line("--source_data_dir", str(tmp_path), "--input_video_path", "x.mp4").over(), ControlSpecs())


def test_without_checkpoints_the_bundled_model_is_used_and_said(tmp_path):
    assert find_checkpoint_dir("")[0] == "bundled"
    assert "bundled model" in find_checkpoint_dir("")[1]
    (tmp_path / "checkpoints").mkdir()
    assert find_checkpoint_dir("")[0] == "checkpoints"
    assert find_checkpoint_dir("bundled") == ("bundled", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    assert main([command, "--help"]) == 0
    assert f"guided-transfer {command}" in capsys.readouterr().out


def test_help_shows_groups_and_units(capsys):
    assert main(["transfer", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "sampling options" in shown
    assert "[px]" in shown
    assert "frames per second" in shown


@pytest.mark.parametrize(
    "argument", ["num_steps", "guidance", "negative_prompt", "sigma_threshold", "no_match_rim"]
)
def test_help_says_where_the_checkpoint_decides(capsys, argument):
    assert main(["transfer", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    about = shown.partition(f"--{argument} ")[2].partition(" --")[0]
    assert "(default: what the checkpoint says, else " in about


def test_help_does_not_wait_for_torch():
    code = (
        "import sys; from guided_transfer.cli.main import main; main(['transfer', '--help']); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_module_is_the_same_command():
    module = [sys.executable, "-m", "guided_transfer.transfer", "--help"]
    assert "--sigma_threshold" in subprocess.run(module, check=True, capture_output=True, text=True).stdout
