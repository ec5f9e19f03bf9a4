"""Masks of things through a video, each started from a box in one frame: SAM 2 with our own preprocessing.

transformers' image and video processors of SAM 2 need torchvision; the model does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from guided_transfer.controls.vision import Pictures
from guided_transfer.pretrained import load_pretrained

CORNER_LABELS = (2, 3)
"""A box is two points to SAM 2: its top left and its bottom right corner, labelled so."""


class Sam2Tracker:
    """transformers' `Sam2VideoModel` and how it wants its pictures."""

    def __init__(self, model: Any, pictures: Pictures) -> None:
        self.model = model
        self.pictures = pictures

    @classmethod
    def from_folder(cls, folder: Path, device: torch.device | str = "cpu") -> Self:
        """Load the published files, in float32.

        Raises:
            CheckpointError: they cannot be read, or lack weights.
        """
        from transformers import Sam2VideoModel

        model = load_pretrained(Sam2VideoModel, folder, torch.float32)
        return cls(model.to(device), Pictures.from_folder(folder))

    def to(self, device: torch.device | str) -> Self:
        """Move the weights."""
        self.model.to(device)
        return self

    @torch.no_grad()
    def track(
        self, rgb: Tensor, order: Sequence[int], boxes_px: Sequence[tuple[float, ...]]
    ) -> Iterator[tuple[int, Tensor]]:
        """Follow what the boxes hold.

        Args:
            rgb: [T, H, W, 3] uint8.
            order: frames in the order they are looked at; the boxes are those of the first. Backwards is an order
                like any other.
            boxes_px: left, top, right, bottom of each thing.

        Yields:
            A frame's index and its masks, [N, H, W] bool on the CPU.
        """
        session = self._session(rgb, order, boxes_px)
        size = (rgb.shape[1], rgb.shape[2])
        for position, frame in enumerate(order):
            logits = self.model(inference_session=session, frame_idx=position).pred_masks  # [N, 1, h, w]
            yield frame, torch.cat([_enlarged(one[None], size) for one in logits]).cpu()
            self._forget(session, position)

    def _session(self, rgb: Tensor, order: Sequence[int], boxes_px: Sequence[tuple[float, ...]]) -> Any:
        from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

        like = next(self.model.parameters())
        session = Sam2VideoInferenceSession(
            video_height=rgb.shape[1],
            video_width=rgb.shape[2],
            inference_device=like.device,
            inference_state_device=like.device,
            dtype=like.dtype,
        )
        session.processed_frames = _Frames(rgb, order, self.pictures, self._side_px, like)  # type: ignore[assignment]
        scale = torch.tensor([self._side_px / rgb.shape[2], self._side_px / rgb.shape[1]], dtype=like.dtype)
        for number, box in enumerate(boxes_px):
            corners = torch.tensor(box, dtype=like.dtype).view(1, 1, 2, 2) * scale
            labels = torch.tensor(CORNER_LABELS, dtype=torch.int32).view(1, 1, 2)
            inputs = {"point_coords": corners, "point_labels": labels}
            session.add_point_inputs(session.obj_id_to_idx(number), 0, inputs)
        session.obj_with_new_inputs = list(range(len(boxes_px)))
        return session

    @property
    def _side_px(self) -> int:
        """The model sees squares of this side."""
        return int(self.model.config.image_size)

    def _forget(self, session: Any, position: int) -> None:
        """Drop what no later frame looks at: masks at full size, and memories out of the model's reach.

        The session would keep 4 MB for every thing in every frame.
        """
        config = self.model.config
        reach = max(config.num_maskmem, config.max_object_pointers_in_encoder)
        for outputs in session.output_dict_per_obj.values():
            outputs["non_cond_frame_outputs"].pop(position - reach, None)
            for kept in outputs.values():
                kept.get(position, {}).pop("high_res_masks", None)


class _Frames:
    """The frames of a session, prepared when their turn comes."""

    def __init__(self, rgb: Tensor, order: Sequence[int], pictures: Pictures, side_px: int, like: Tensor) -> None:
        self.rgb, self.order, self.pictures, self.like = rgb, order, pictures, like
        self.size = (side_px, side_px)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, position: int) -> Tensor:
        return self.pictures.prepared(self.rgb[self.order[position]][None], self.size, self.like)[0]


def _enlarged(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """[1, H, W] bool of [1, 1, h, w] logits; one thing at a time, since a hundred in full size are large."""
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)[:, 0] > 0
