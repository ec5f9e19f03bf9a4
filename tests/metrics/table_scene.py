"""A table seen by two cameras, drawn by ray casting: depth, labels and poses are exact by construction."""

from dataclasses import dataclass

import torch

from guided_transfer.types import Camera, Episode, View

HEIGHT, WIDTH = 48, 64
PLATE_HEIGHT_M, PLATE_HALF_M = 0.1, 0.12


def looking_at(eye_m, target_m):
    """cam_from_world of a camera at `eye_m` looking at `target_m`, world z up in the picture."""
    eye, target = torch.tensor(eye_m).double(), torch.tensor(target_m).double()
    forward = torch.nn.functional.normalize(target - eye, dim=0)
    up = torch.tensor([0.0, 0.0, 1.0]).double()
    if abs(float(forward @ up)) > 0.999:
        up = torch.tensor([0.0, 1.0, 0.0]).double()
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up), dim=0)
    rotation = torch.stack([right, torch.linalg.cross(forward, right), forward])
    pose = torch.eye(4).double()
    pose[:3, :3], pose[:3, 3] = rotation, -rotation @ eye
    return pose


def camera_at(eyes_m, targets_m, focal_px=60.0):
    poses = torch.stack([looking_at(eye, target) for eye, target in zip(eyes_m, targets_m, strict=True)])
    k = torch.tensor([[focal_px, 0, WIDTH / 2], [0, focal_px, HEIGHT / 2], [0, 0, 1]]).double()
    return Camera(k.repeat(len(poses), 1, 1), poses, HEIGHT, WIDTH)


def painted(points_m, seed):
    """Smooth colours of world points [..., 3], one texture per seed: waves of 20 to 60 cm."""
    draw = torch.Generator().manual_seed(seed)
    waves = (torch.rand(3, 3, 2, generator=draw) * 2 - 1).double() * 25 + torch.sign(
        torch.randn(3, 3, 2, generator=draw)
    ) * 8
    phases = torch.rand(3, 3, generator=draw).double() * 6.28
    angle = torch.einsum("cka,...a->...ck", waves, points_m[..., :2]) + phases
    return (127.5 + 100 * torch.sin(angle).mean(-1)).round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class Table:
    """The plane z = 0; its middle, 24 x 24 cm, is labelled phantom, and hovers 10 cm above it if asked."""

    plate: bool = False

    def view(self, name, camera, texture):
        v, u = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
        rays = torch.einsum(
            "tij,hwj->thwi",
            torch.linalg.inv(camera.intrinsics_px),
            torch.stack([u, v, torch.ones_like(u)], -1).double(),
        )
        world_from_cam = torch.linalg.inv(camera.cam_from_world)
        eye, rays = (
            world_from_cam[:, None, None, :3, 3],
            torch.einsum("tij,thwj->thwi", world_from_cam[:, :3, :3], rays),
        )
        depth_m = self._hit(eye, rays, 0.0)
        if self.plate:
            on_top = self._hit(eye, rays, PLATE_HEIGHT_M)
            top = ((eye + rays * on_top[..., None])[..., :2].abs() < PLATE_HALF_M).all(-1) & (on_top < depth_m)
            depth_m = torch.where(top, on_top, depth_m)
        else:
            top = ((eye + rays * depth_m[..., None])[..., :2].abs() < PLATE_HALF_M).all(-1)
        colours = painted((eye + rays * depth_m[..., None]).nan_to_num(0, 0, 0), texture)
        labels = torch.where(top, 3, torch.where(depth_m.isfinite(), 2, 0)).to(torch.uint8)
        return View(name, colours, depth_m.float(), labels, camera)

    @staticmethod
    def _hit(eye, rays, height_m):
        depth = (height_m - eye[..., 2]) / rays[..., 2]
        return torch.where(depth > 0, depth, torch.inf)


def room_camera(num_frames):
    return camera_at([(0.0, -0.9, 0.9)] * num_frames, [(0.0, 0.0, 0.0)] * num_frames)


def wrist_camera(num_frames, shift_m=0.0):
    along = [0.02 * t + shift_m for t in range(num_frames)]
    return camera_at([(x, 0.0, 0.5) for x in along], [(x, 0.0, 0.0) for x in along])


def make_episode(num_frames=5, texture=0, plate=False):
    table = Table(plate)
    room = table.view("room", room_camera(num_frames), texture)
    wrist = table.view("wrist", wrist_camera(num_frames), texture)
    return Episode("data_0/demo_0", 30.0, {"room": room, "wrist": wrist})
