"""The controlnet_specs JSON: which controls steer the picture, how strongly, and from which files.

    {"prompt": "prompts.json",
     "edge":  {"control_weight": 0.5},
     "depth": {"control_weight": "0.75", "input_control": "depth.mp4"},
     "seg":   {"control_weight": "robot.npz", "control_weight_prompt": null}}

A key that is no kind of control is a default for the command line argument of that name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo

from guided_transfer.errors import UsageError, refuse

WEIGHT_MAP_SUFFIXES = (".pt", ".npy", ".npz", ".mp4", ".mkv", ".mov", ".avi", ".webm")
ALWAYS_GIVEN = ("hdmap", "lidar")
"""Controls nothing can compute from a video: their picture must be in `input_control`."""

FILE_ARGUMENTS = ("input_video_path", "foreground_mask")
"""Arguments whose files are looked for where those of the controls are."""

Argument = str | int | float | bool | list[Any] | None


def _weight(value: Any) -> float | Path:
    """A number, a number in quotes, or the path of a weight map."""
    if isinstance(value, str) and value.lower().endswith(WEIGHT_MAP_SUFFIXES):
        return Path(value)
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number < math.inf:
        raise ValueError(f"must be a number of at least 0 or the path of a map ({', '.join(WEIGHT_MAP_SUFFIXES)})")
    return number


def _path(value: Any, info: ValidationInfo) -> Any:
    """Look below the working directory first, as the reference does, then beside the specs file."""
    if not isinstance(value, str | Path) or not str(value):
        return value or None
    return _beside(value, (info.context or {}).get("folders", ()))


def _beside(file: Any, folders: Iterable[Path]) -> Path:
    found = (folder / str(file) for folder in (Path(), *folders) if (folder / str(file)).exists())
    return next(found, Path(str(file)))


File = Annotated[Path | None, BeforeValidator(_path)]
Text = Annotated[str | None, BeforeValidator(lambda value: value or None)]


class HintSpec(BaseModel):
    """One control: how much it counts and where its picture comes from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    control_weight: Annotated[
        float | File,
        BeforeValidator(_weight, json_schema_input_type=Annotated[float, Field(ge=0)] | str),
        Field(description="A number of at least 0, also as a string, or the path of a weight map."),
    ] = 0.5
    input_control: File = Field(None, description="The control's video or image; computed from the RGB if absent.")
    input_control_prompt: Text = Field(None, description="What to segment, where the picture is computed.")
    control_weight_prompt: Text = Field(None, description="Where the control counts, in words.")
    ckpt_path: File = Field(None, description="Another checkpoint for this control's branch.")


class ControlSpecs(BaseModel):
    """A controlnet_specs file; one optional field per kind of control, everything else in `arguments`."""

    model_config = ConfigDict(extra="allow", frozen=True, title="controlnet_specs")
    __pydantic_extra__: dict[str, Argument]

    edge: HintSpec | None = None
    vis: HintSpec | None = None
    depth: HintSpec | None = None
    seg: HintSpec | None = None
    keypoint: HintSpec | None = None
    upscale: HintSpec | None = None
    hdmap: HintSpec | None = None
    lidar: HintSpec | None = None

    @property
    def hints(self) -> dict[str, HintSpec]:
        """The controls in use by kind, in the order of the fields: the file's order changes no result."""
        chosen = ((kind, getattr(self, kind)) for kind in HINT_KINDS)
        return {kind: hint for kind, hint in chosen if hint is not None}

    @property
    def active(self) -> dict[str, HintSpec]:
        """The controls that count: at weight 0 one is neither loaded nor computed."""
        return {kind: hint for kind, hint in self.hints.items() if hint.control_weight != 0}

    @property
    def own_files(self) -> dict[str, Path]:
        """Checkpoints that the file itself names, by kind."""
        return {kind: hint.ckpt_path for kind, hint in self.active.items() if hint.ckpt_path is not None}

    @property
    def arguments(self) -> dict[str, Argument]:
        """Defaults for command line arguments, by argument name."""
        return {key: value for key, value in (self.__pydantic_extra__ or {}).items() if key != "$schema"}

    def require_input_controls(self) -> None:
        """Check that every `input_control` is a file; call it when controls do not come from an episode.

        Not done on loading: the integration's own specs name placeholder files that a batch never opens.

        Raises:
            UsageError: naming every file that is missing.
        """
        named = ((hint.input_control, f"{kind}.input_control") for kind, hint in self.active.items())
        refuse([fault for file, key in named for fault in _missing(file, key)])


HINT_KINDS = tuple(ControlSpecs.model_fields)


def load_specs(
    path: Path | str,
    *,
    checkpoint_dir: Path | str | None = None,
    known_arguments: Collection[str] | None = None,
    argument_fault: Callable[[str, Any], str] = lambda name, value: "",
) -> ControlSpecs:
    """Read and check a controlnet_specs JSON.

    Paths inside it are looked for below the working directory, then beside the file; `ckpt_path` and the
    others also below `checkpoint_dir`.

    Args:
        path: a file, or the bare name of a packaged one.
        checkpoint_dir: root of the checkpoint tree.
        known_arguments: names a key may have that is no kind of control; None accepts any.
        argument_fault: why an argument of this name does not take this value; "" where it does.

    Raises:
        UsageError: no such file, no JSON, no control, an unknown key, a bad value, a weight map or
            checkpoint that is missing; names all of them.
    """
    file = _find(Path(path))
    content = _read_json(file)
    folders = [file.parent, *([Path(checkpoint_dir)] if checkpoint_dir else [])]
    content |= {key: str(_beside(content[key], folders)) for key in FILE_ARGUMENTS if content.get(key)}
    key_faults = dict(_key_faults(content, known_arguments, argument_fault))
    sound = {key: value for key, value in content.items() if key not in key_faults}
    faults, context = [*key_faults.values()], {"folders": folders}
    try:
        specs = ControlSpecs.model_validate(sound, context=context)
    except ValidationError as error:
        faults += [_fault(fault["loc"], fault["type"], fault["msg"], fault["input"]) for fault in error.errors()]
        bad = {fault["loc"][0] for fault in error.errors()}
        rest = {key: value for key, value in sound.items() if key not in bad}
        specs = ControlSpecs.model_validate(rest, context=context)
    named = {key for key, value in content.items() if value is not None and key in HINT_KINDS}
    if not named and not any(isinstance(value, dict) for value in content.values()):
        accepted = ", ".join(HINT_KINDS)
        faults.append(f'no control is given; add at least one, such as "edge": {{}} (of {accepted})')
    refuse([*faults, *_hint_faults(specs)], str(file))
    return specs


def packaged_specs() -> dict[str, Path]:
    """Spec files that come with the package, by bare name."""
    folder = Path(str(resources.files("guided_transfer.controls"))) / "specs"
    return {file.name: file for file in sorted(folder.glob("*.json"))}


def specs_schema(arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """JSON Schema of the file, for editors.

    Args:
        arguments: schemas of the arguments that it may set, by name; None allows any.
    """
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **ControlSpecs.model_json_schema()}
    if arguments is not None:
        named = {"$schema": {"type": "string"}, **arguments}
        schema |= {"properties": {**schema["properties"], **named}, "additionalProperties": False}
    return schema


def _find(path: Path) -> Path:
    if path.is_file():
        return path
    packaged = packaged_specs()
    if path.name == str(path) and path.name in packaged:
        return packaged[path.name]
    raise UsageError(f"controlnet_specs {str(path)!r} is no file; packaged are: {', '.join(packaged)}")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: not a JSON file: {error}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{file}: must hold one JSON object, found a {type(content).__name__}")
    return content


def _key_faults(
    content: Mapping[str, Any],
    known_arguments: Collection[str] | None,
    argument_fault: Callable[[str, Any], str],
) -> Iterator[tuple[str, str]]:
    """Keys that are neither a control nor an argument with a value that it takes, and why."""
    arguments = known_arguments if known_arguments is not None else ()
    for key, value in content.items():
        if key in HINT_KINDS or key == "$schema":
            continue
        if isinstance(value, dict):
            yield key, f"{key!r} is no kind of control{_nearest(key, HINT_KINDS)}"
        elif known_arguments is not None and key not in arguments:
            yield key, f"{key!r} is no control and no argument{_nearest(key, [*HINT_KINDS, *arguments])}"
        elif fault := argument_fault(key, value):
            yield key, f"{key} is {value!r}; {fault}"


def _hint_faults(specs: ControlSpecs) -> Iterator[str]:
    for kind, hint in specs.hints.items():
        if kind in ALWAYS_GIVEN and hint.input_control is None:
            yield f"{kind}.input_control is missing; a {kind} picture cannot be computed from the video"
        if isinstance(hint.control_weight, Path):
            yield from _missing(hint.control_weight, f"{kind}.control_weight")
        yield from _missing(hint.ckpt_path, f"{kind}.ckpt_path")


def _missing(file: Path | None, key: str) -> Iterator[str]:
    if file is not None and not file.is_file():
        yield f"{key} names {str(file)!r}, which is no file here nor beside the specs"


def _fault(place: Iterable[str | int], kind: str, message: str, found: Any) -> str:
    """One of pydantic's errors: where, what is accepted, what was found."""
    names = [str(part) for part in place]
    if kind == "extra_forbidden":
        return f"{'.'.join(names)} is no key of a control{_nearest(names[-1], HintSpec.model_fields)}"
    if kind == "model_type":
        return f'{names[-1]} must be an object such as {{"control_weight": 0.5}}, got {found!r}'
    return f"{'.'.join(names[:2])}: {message.removeprefix('Value error, ')}, got {found!r}"


def _nearest(key: str, accepted: Iterable[str]) -> str:
    names = list(accepted)
    close = get_close_matches(key, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; accepted are {', '.join(names)}"
