"""The controlnet_specs JSON: what is accepted, and one clear error for everything that is not."""

import json
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from guided_transfer.controls.specs import HINT_KINDS, load_specs, packaged_specs, specs_schema
from guided_transfer.errors import UsageError

NAME = "inference_cosmos_transfer1_two_views.json"


@pytest.fixture
def write(tmp_path):
    def write(content):
        file = tmp_path / "specs.json"
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        return file

    return write


def test_packaged_file_by_its_bare_name():
    specs = load_specs(NAME)
    assert {kind: hint.control_weight for kind, hint in specs.hints.items()} == {
        "edge": 0.5,
        "depth": 0.75,
        "seg": 0.75,
    }
    assert specs.arguments == {}
    assert NAME in packaged_specs()


def test_a_file_of_that_name_in_the_working_directory_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(NAME).write_text('{"vis": {"control_weight": 1}}')
    assert list(load_specs(NAME).hints) == ["vis"]


def test_the_integrations_own_file_with_its_placeholders(write):
    specs = load_specs(
        write(
            {
                "prompt": "environments/cosmos_transfer1/config/generated_prompts_two_seperate_views.json",
                "input_video_path": "placeholder_not_needed.mp4",
                "edge": {"control_weight": 0.5},
                "depth": {"control_weight": 0.75, "input_control": "placeholder_not_needed.mp4"},
                "seg": {"control_weight": 0.75, "input_control": "placeholder_not_needed.mp4"},
            }
        )
    )
    assert set(specs.arguments) == {"prompt", "input_video_path"}
    with pytest.raises(
        UsageError, match=r"depth.input_control names 'placeholder_not_needed.mp4', which is no file"
    ) as refused:
        specs.require_input_controls()
    assert "seg.input_control names" in str(refused.value)  # every one, not the first alone


@pytest.mark.parametrize("kind", HINT_KINDS)
def test_every_kind_with_every_key(write, tmp_path, kind):
    torch.save(torch.ones(1, 2, 2), tmp_path / "map.pt")
    for name in ("control.mp4", "branch.pt"):
        (tmp_path / name).touch()
    hint = {
        "control_weight": "map.pt",
        "input_control": "control.mp4",
        "input_control_prompt": "robot arm",
        "control_weight_prompt": "phantom",
        "ckpt_path": "branch.pt",
    }
    loaded = load_specs(write({kind: hint})).hints[kind]
    assert loaded.control_weight == tmp_path / "map.pt"
    assert loaded.input_control == tmp_path / "control.mp4"
    assert loaded.ckpt_path == tmp_path / "branch.pt"
    assert (loaded.input_control_prompt, loaded.control_weight_prompt) == ("robot arm", "phantom")


def test_any_combination_in_a_fixed_order(write):
    kinds = ["upscale", "seg", "keypoint", "edge", "vis", "depth"]
    assert list(load_specs(write({kind: {} for kind in kinds})).hints) == [k for k in HINT_KINDS if k in kinds]


def test_defaults_and_numeric_strings(write):
    hints = load_specs(write({"edge": {}, "vis": {"control_weight": "0.25"}, "seg": {"control_weight": 0}})).hints
    assert [hint.control_weight for hint in hints.values()] == [0.5, 0.25, 0.0]
    assert isinstance(hints["seg"].control_weight, float)


def test_empty_strings_and_null_mean_absent(write):
    hint = load_specs(write({"edge": {"input_control": "", "ckpt_path": None, "control_weight_prompt": ""}})).hints[
        "edge"
    ]
    assert hint.input_control is hint.ckpt_path is hint.control_weight_prompt is None


def test_arguments_pass_through(write):
    specs = load_specs(write({"edge": {}, "seed": 3, "prompt": "a room", "flag": False, "$schema": "s.json"}))
    assert specs.arguments == {"seed": 3, "prompt": "a room", "flag": False}


def test_ckpt_path_below_the_checkpoint_tree(write, tmp_path):
    tree = tmp_path / "tree"
    (tree / "nvidia").mkdir(parents=True)
    (tree / "nvidia/edge.pt").touch()
    file = write({"edge": {"ckpt_path": "nvidia/edge.pt"}})
    assert load_specs(file, checkpoint_dir=tree).hints["edge"].ckpt_path == tree / "nvidia/edge.pt"
    with pytest.raises(UsageError, match=r"edge.ckpt_path names 'nvidia/edge.pt'"):
        load_specs(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"egde": {}}, "'egde' is no kind of control; did you mean 'edge'?"),
        ({"edge": {}, "colour": {}}, "'colour' is no kind of control; accepted are edge, vis,"),
        (
            {"edge": {"control_wieght": 1}},
            "edge.control_wieght is no key of a control; did you mean 'control_weight'?",
        ),
        ({"edge": {"control_weight": -1}}, "edge.control_weight: must be a number of at least 0"),
        ({"edge": {"control_weight": "-0.5"}}, "got '-0.5'"),
        ({"edge": {"control_weight": "nan"}}, "edge.control_weight: must be a number of at least 0"),
        ({"edge": {"control_weight": True}}, "edge.control_weight: must be a number"),
        ({"edge": {"control_weight": "strong"}}, "or the path of a map (.pt, .npy, .npz,"),
        ({"seg": {"control_weight": "gone.npz"}}, "seg.control_weight names 'gone.npz', which is no file"),
        ({"edge": 0.5}, 'edge must be an object such as {"control_weight": 0.5}, got 0.5'),
        ({"edge": {"input_control": 5}}, "edge.input_control: "),
        ({"lidar": {"control_weight": 1}}, "lidar.input_control is missing"),
        ({}, "no control is given"),
        ({"prompt": "x"}, "no control is given"),
        ("[1]", "must hold one JSON object, found a list"),
        ('{"edge": {},}', "not a JSON file"),
    ],
)
def test_one_clear_error(write, content, message):
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        load_specs(write(content))
    assert "specs.json" in str(caught.value)


def test_every_fault_is_named_at_once(write):
    faulty = {
        "egde": {},
        "edge": {"control_weight": -1, "colour": 3},
        "depth": {"control_weight": "gone.npz", "ckpt_path": "gone.pt"},
        "lidar": {},
        "guidence": 4,
        "seed": "x",
    }

    def fault(name, value):
        return "accepted is a whole number" if value == "x" else ""

    with pytest.raises(UsageError) as caught:
        load_specs(write(faulty), known_arguments=["seed", "guidance"], argument_fault=fault)
    said = str(caught.value)
    assert re.match(r".*specs\.json: 8 faults\n", said)
    for words in (
        "'egde' is no kind of control",
        "edge.control_weight: must be",
        "edge.colour is no key",
        "depth.control_weight names 'gone.npz'",
        "depth.ckpt_path names 'gone.pt'",
        "lidar.input_control is missing",
        "'guidence' is no control and no argument",
        "seed is 'x'; accepted is a whole number",
    ):
        assert said.count(words) == 1


def test_unknown_argument_names_the_nearest(write):
    file = write({"edge": {}, "guidence": 4})
    assert load_specs(file).arguments == {"guidence": 4}
    with pytest.raises(UsageError, match=r"'guidence' is no control and no argument; did you mean 'guidance'"):
        load_specs(file, known_arguments=["seed", "guidance"])
    with pytest.raises(UsageError, match="did you mean 'edge'"):
        load_specs(write({"seg": {}, "egde": 0.5}), known_arguments=["seed"])


def test_missing_file_lists_the_packaged_ones():
    with pytest.raises(UsageError, match=f"'nowhere.json' is no file; packaged are: .*{NAME}"):
        load_specs("nowhere.json")


def test_schema_names_every_key():
    schema = specs_schema()
    assert set(schema["properties"]) == set(HINT_KINDS)
    hint = schema["$defs"]["HintSpec"]
    assert hint["additionalProperties"] is False
    assert {"control_weight", "input_control", "control_weight_prompt"} <= set(hint["properties"])
    assert {"type": "object"} not in schema["additionalProperties"]["anyOf"]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


@given(
    content=st.dictionaries(
        st.sampled_from([*HINT_KINDS, "prompt", "x"]),
        JSON_VALUES
        | st.dictionaries(st.sampled_from(["control_weight", "input_control", "y"]), JSON_VALUES, max_size=3),
        max_size=4,
    )
)
@settings(max_examples=150, deadline=None)
def test_whatever_the_file_holds_it_loads_or_says_why(tmp_path_factory, content):
    file = tmp_path_factory.mktemp("specs") / "any.json"
    file.write_text(json.dumps(content))
    try:
        outcome = str(load_specs(file).hints)
    except UsageError as error:
        outcome = str(error)
    assert "any.json" in outcome or "control_weight" in outcome
