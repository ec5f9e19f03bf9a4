"""Where each camera's pictures, depth, labels and poses lie: declared presets, and what a demo really holds.

Paths are relative to `data/demo_<n>`. A schema either stacks its cameras along axis 1 of one dataset (`cameras`
names them in that order) or gives every camera its own dataset, found by the `{camera}` in the path.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher

import h5py
import numpy as np

from guided_transfer.episodes.labels import LABEL_OF_COLOUR, Colour
from guided_transfer.errors import EpisodeError, EpisodeInconsistent, EpisodeUnreadable, UsageError

CAMERA_NAME = r"[A-Za-z0-9][A-Za-z0-9_]{0,63}"
"""Camera names become parts of file names, so nothing else is let through."""


@dataclass(frozen=True)
class Schema:
    """A declared layout.

    Attributes:
        name: as `--schema_name` takes it and `inspect` prints it.
        rgb: [T, cameras, H, W, 3] uint8 when stacked, else [T, H, W, 3] with `{camera}` in the path.
        depth_m: as rgb with 1 channel or none, float, metres along the optical axis; or None.
        labels: as rgb with 3 or 4 colour channels, or 1 label channel; or None.
        intrinsics_px, position_m, quat_wxyz: [T, 3, 3], [T, 3], [T, 4] of one camera; camera to world; or None.
        required: which of the fields above, besides rgb, every camera must have.
        per_frame: other datasets of the demo that must have T rows where they are present.
        cameras: names along axis 1 of a stack; empty when every camera has its own dataset.
        colours: RGB -> label.
    """

    name: str
    rgb: str
    depth_m: str | None = None
    labels: str | None = None
    intrinsics_px: str | None = None
    position_m: str | None = None
    quat_wxyz: str | None = None
    required: tuple[str, ...] = ()
    per_frame: tuple[str, ...] = ()
    cameras: tuple[str, ...] = ()
    colours: Mapping[Colour, int] | None = None

    @property
    def stacked(self) -> bool:
        """Whether all cameras lie in one dataset."""
        return "{camera}" not in self.rgb


I4H = Schema(
    name="i4h",
    rgb="observations/rgb_images",
    depth_m="observations/depth_images",
    labels="observations/seg_images",
    intrinsics_px="observations/{camera}_camera_intrinsic_matrices",
    position_m="observations/{camera}_camera_pos",
    quat_wxyz="observations/{camera}_camera_quat_w_ros",
    required=("depth_m", "intrinsics_px", "position_m", "quat_wxyz"),  # the foreground can be named in words too
    per_frame=(
        "action",
        "abs_action",
        "state",
        "abs_joint_pos",
        "observations/torso_obs",
        "observations/robot_obs",
        "observations/joint_vel",
    ),
    cameras=("room", "wrist"),
)

ISAACLAB = Schema(
    name="isaaclab",
    rgb="obs/{camera}_cam",
    depth_m="obs/{camera}_cam_depth",
    labels="obs/{camera}_cam_segmentation",
    per_frame=("actions",),
    # The semantic colours of Isaac Lab's cube stacking task for Cosmos; cubes are to be kept: label 3.
    colours={
        (150, 150, 150): 0,
        (200, 200, 200): 0,
        (0, 0, 0): 0,
        (100, 100, 100): 1,
        (255, 237, 218): 2,
        (120, 230, 255): 3,
        (255, 36, 66): 3,
        (55, 255, 139): 3,
        (204, 110, 248): 4,
    },
)

ROBOMIMIC = Schema(
    name="robomimic",
    rgb="obs/{camera}_image",
    depth_m="obs/{camera}_depth",
    labels="obs/{camera}_segmentation",
    per_frame=("actions", "states", "rewards", "dones"),
)

PRESETS: Mapping[str, Schema] = {schema.name: schema for schema in (I4H, ISAACLAB, ROBOMIMIC)}


@dataclass(frozen=True)
class CameraLayout:
    """Where one camera's data lie in one demo, and their size; absent datasets are None."""

    name: str
    height_px: int
    width_px: int
    stack_index: int | None
    rgb: str
    depth_m: str | None
    labels: str | None
    intrinsics_px: str | None
    position_m: str | None
    quat_wxyz: str | None

    @property
    def is_stacked(self) -> bool:
        """Whether it shares its picture datasets with other cameras."""
        return self.stack_index is not None

    @property
    def has_pose(self) -> bool:
        """Whether the file says where the camera is and what it sees."""
        return None not in (self.intrinsics_px, self.position_m, self.quat_wxyz)


@dataclass(frozen=True)
class DemoLayout:
    """What one demo holds: T frames of some cameras."""

    name: str
    num_frames: int
    cameras: Mapping[str, CameraLayout]

    @property
    def rgb_paths(self) -> tuple[str, ...]:
        """The datasets a transfer replaces."""
        return tuple(dict.fromkeys(camera.rgb for camera in self.cameras.values()))


def natural_key(name: str) -> tuple[tuple[tuple[str, int, str], ...], str]:
    """Sort key that puts data_2 before data_10, and data_02 always on the same side of data_2."""
    parts = [*re.split(r"([0-9]+)", name), ""]
    numbers = [digits.lstrip("0") for digits in parts[1::2]]  # of any length: the longer is the greater
    return tuple((text, len(n), n) for text, n in zip(parts[::2], numbers, strict=True)), name


def find_schema(demo: h5py.Group, wanted: str | Schema | None = None) -> Schema:
    """The schema asked for, or the only preset that fits this demo.

    Raises:
        UsageError: no preset has that name.
        EpisodeUnreadable: none fits, or more than one does.
    """
    if isinstance(wanted, Schema):
        return wanted
    if wanted is not None and wanted not in PRESETS:
        raise UsageError(f"schema {wanted!r} is not known; known are {', '.join(PRESETS)}")
    if wanted is not None:
        return PRESETS[wanted]
    fitting = [schema for schema in PRESETS.values() if camera_names(demo, schema)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = " and ".join(schema.name for schema in fitting)
        raise EpisodeUnreadable(
            f"the layout fits {names}; name one: --schema_name {fitting[0].name}, or schema= of open_episodes",
            dataset=demo.name,
        )
    looked = ", ".join(f"{schema.rgb} ({schema.name})" for schema in PRESETS.values())
    raise EpisodeUnreadable(
        f"no camera pictures found; looked for {looked}. Declare where they lie with a Schema", dataset=demo.name
    )


def camera_names(demo: h5py.Group, schema: Schema) -> tuple[str, ...]:
    """The cameras a schema finds in a demo; empty when it does not fit."""
    if schema.stacked:
        return schema.cameras if isinstance(demo.get(schema.rgb), h5py.Dataset) else ()
    folder, _, leaf = schema.rgb.rpartition("/")
    pattern = re.compile(re.escape(leaf).replace(r"\{camera\}", f"({CAMERA_NAME})"))
    group = demo.get(folder)
    if not isinstance(group, h5py.Group):
        return ()
    found = [match[1] for name in group if (match := pattern.fullmatch(name))]
    return tuple(sorted(found, key=natural_key))


def read_layout(demo: h5py.Group, schema: Schema) -> DemoLayout:
    """What a demo holds, or its first fault as an `EpisodeInconsistent`."""
    layout, faults = examine_layout(demo, schema)
    if faults or layout is None:
        raise faults[0]
    return layout


def examine_layout(demo: h5py.Group, schema: Schema) -> tuple[DemoLayout | None, list[EpisodeError]]:
    """What a demo holds, and every fault of its shapes, types and frame counts; reads no pixels."""
    names = camera_names(demo, schema)
    if not names:
        wanted = f"{demo.name}/{schema.rgb}"
        return None, [EpisodeInconsistent(f"schema {schema.name} needs this dataset", dataset=wanted)]
    faults: list[EpisodeError] = []
    cameras = {}
    for index, name in enumerate(names):
        camera, found = _examine_camera(demo, schema, name, index)
        faults += found
        if camera:
            cameras[name] = camera
    if not cameras:
        return None, list(_without_repeats(faults))
    num_frames = max(demo[camera.rgb].shape[0] for camera in cameras.values())
    faults += _frame_count_faults(demo, schema, cameras, num_frames)
    return DemoLayout(demo.name.rpartition("/")[2], num_frames, cameras), list(_without_repeats(faults))


def _examine_camera(
    demo: h5py.Group, schema: Schema, name: str, index: int
) -> tuple[CameraLayout | None, list[EpisodeError]]:
    """One camera's place and size, None where its pictures are not usable; and its faults."""
    path = schema.rgb.format(camera=name)
    rgb, stack = demo[path], len(schema.cameras) if schema.stacked else None
    lead = "T, " if stack is None else f"T, {stack}, "
    ndim = 4 if stack is None else 5
    shape: tuple[int, ...] = rgb.shape or ()
    if rgb.dtype != np.uint8 or len(shape) != ndim or shape[-1] != 3 or 0 in shape or stack not in (None, shape[1]):
        wanted = f"[{lead}H, W, 3] uint8 with at least one frame"
        return None, [_fault(rgb, f"is {_describe(rgb)}; schema {schema.name} needs {wanted}")]

    num_frames, height, width = shape[0], shape[-3], shape[-2]
    pictures, plain = shape[:-1], (num_frames,)
    expected: dict[str, tuple[tuple[tuple[int, ...], ...], str, str]] = {
        "depth_m": ((pictures, (*pictures, 1)), "f", f"[{lead}{height}, {width}, 1] float"),
        "labels": (
            (pictures, (*pictures, 1), (*pictures, 3), (*pictures, 4)),
            "iu",
            f"[{lead}{height}, {width}, 3] uint8 colours or one channel of labels",
        ),
        "intrinsics_px": (((*plain, 3, 3),), "f", "[T, 3, 3] float"),
        "position_m": (((*plain, 3),), "f", "[T, 3] float"),
        "quat_wxyz": (((*plain, 4),), "f", "[T, 4] float"),
    }
    faults: list[EpisodeError] = []
    present: dict[str, str | None] = {}
    for field, (shapes, kinds, wanted) in expected.items():
        present[field], found = _find(demo, schema, field, name, shapes, kinds, wanted)
        faults += found
    if present["labels"] is not None and (dataset := demo[present["labels"]]).shape[ndim - 1 :] in ((3,), (4,)):
        faults += (
            [] if dataset.dtype == np.uint8 else [_fault(dataset, f"colours must be uint8, not {dataset.dtype}")]
        )
    pose = [present[field] for field in ("intrinsics_px", "position_m", "quat_wxyz")]
    if any(pose) and not all(pose) and not faults:
        missing = [getattr(schema, f) for f in ("intrinsics_px", "position_m", "quat_wxyz") if not present[f]]
        faults.append(_fault(demo, f"camera {name} lacks {', '.join(m.format(camera=name) for m in missing)}"))
    return CameraLayout(name, height, width, index if stack else None, path, **present), faults


def _find(
    demo: h5py.Group,
    schema: Schema,
    field: str,
    camera: str,
    shapes: tuple[tuple[int, ...], ...],
    kinds: str,
    wanted: str,
) -> tuple[str | None, list[EpisodeError]]:
    """The path of a dataset, None where it is absent or not usable; and its fault."""
    path = (getattr(schema, field) or "").format(camera=camera)
    if not path:
        return None, []
    if path not in demo:
        return None, _absence_faults(demo, schema, path, field in schema.required, wanted)
    dataset = demo[path]
    if not isinstance(dataset, h5py.Dataset):
        return None, [_fault(dataset, f"must be a dataset {wanted}, it is a group")]
    if dataset.shape not in shapes or dataset.dtype.kind not in kinds:
        return None, [_fault(dataset, f"is {_describe(dataset)}; needed is {wanted} with T = {shapes[0][0]}")]
    return path, []


def _absence_faults(demo: h5py.Group, schema: Schema, path: str, required: bool, wanted: str) -> list[EpisodeError]:
    """A dataset that must be there, or whose name was misspelt or damaged; silence would drop what it holds."""
    folder, _, leaf = path.rpartition("/")
    group = demo.get(folder) if folder else demo
    declared = _declared_names(demo, schema)
    names = [name for name in group if name not in declared] if isinstance(group, h5py.Group) else []
    close = [name for name in names if _edits(leaf, name) <= 2]
    if not required and not close:
        return []
    hint = f"; did you mean {close[0]!r}?" if close else ""
    reason = f"is missing; schema {schema.name} {'needs' if required else 'knows'} it as {wanted}{hint}"
    return [EpisodeInconsistent(reason, dataset=f"{demo.name}/{path}")]


def _edits(wanted: str, found: str) -> int:
    """About how many letters differ."""
    matching = SequenceMatcher(None, wanted, found, autojunk=False).get_matching_blocks()
    return max(len(wanted), len(found)) - sum(block.size for block in matching)


def _declared_names(demo: h5py.Group, schema: Schema) -> set[str]:
    """Names the schema itself gives to this demo's datasets, which are nobody's misspelling."""
    fields = (schema.rgb, schema.depth_m, schema.labels, schema.intrinsics_px, schema.position_m, schema.quat_wxyz)
    paths = [path.format(camera=camera) for path in fields if path for camera in camera_names(demo, schema)]
    return {path.rpartition("/")[2] for path in (*paths, *schema.per_frame)}


def _frame_count_faults(
    demo: h5py.Group, schema: Schema, cameras: Mapping[str, CameraLayout], num_frames: int
) -> Iterator[EpisodeError]:
    paths = [*schema.per_frame, *(camera.rgb for camera in cameras.values())]
    for path in paths:
        dataset = demo.get(path)
        if isinstance(dataset, h5py.Dataset) and dataset.shape and dataset.shape[0] != num_frames:
            yield _fault(dataset, f"has {dataset.shape[0]} rows, the pictures have {num_frames} frames")
    declared = demo.attrs.get("num_samples")
    if declared is not None and (not np.isscalar(declared) or declared != num_frames):
        yield _fault(demo, f"attribute num_samples is {declared}, the pictures have {num_frames} frames")


def _describe(dataset: h5py.Dataset) -> str:
    return f"{list(dataset.shape or ())} {dataset.dtype}"


def _fault(obj: h5py.Dataset | h5py.Group, reason: str) -> EpisodeInconsistent:
    return EpisodeInconsistent(reason, dataset=obj.name)


def _without_repeats(faults: list[EpisodeError]) -> Iterator[EpisodeError]:
    """Cameras of a stack share datasets, and so their faults."""
    seen = set()
    for fault in faults:
        if str(fault) not in seen:
            seen.add(str(fault))
            yield fault


def label_colours(schema: Schema) -> Mapping[Colour, int]:
    """The schema's own colours, or those of docs/conventions.md."""
    return schema.colours or LABEL_OF_COLOUR
