"""What the official tree holds and who needs it, as data.

Every repository of the Hugging Face hub lies at `<checkpoint_dir>/<owner>/<name>`. Checksums are the published MD5
sums of the files; files without one are checked against the lock file that `checkpoints download` writes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from guided_transfer.errors import UsageError

HUB = "https://huggingface.co"
LOCK_FILE = "checkpoints.lock.json"

DEFAULT_PARTS = ("base", "edge", "vis", "depth", "seg", "keypoint", "tokenizer", "text", "guardrail")
"""What a transfer of episodes can need; the other parts are fetched when they are named."""


@dataclass(frozen=True)
class Wanted:
    """A file of a repository.

    Attributes:
        part: what it serves; the word of `--only`.
        path: below the repository; with `*` any number of files, at least one.
        md5: of the published file, where it is known.
        instead: paths that serve as well; the first of all that is found counts.
    """

    part: str
    path: str
    md5: str | None = None
    instead: tuple[str, ...] = ()


@dataclass(frozen=True)
class Repository:
    """A repository of the hub.

    Attributes:
        id: owner/name, also its folder below the checkpoint folder.
        files: those that are used.
        gate: what its owner asks for before the first byte; "" where it is open to all.
    """

    id: str
    files: tuple[Wanted, ...]
    gate: str = ""

    @property
    def page(self) -> str:
        """Where a person can read about it, and accept its terms."""
        return f"{HUB}/{self.id}"


def _network_file(part: str, stem: str, md5: str) -> Wanted:
    return Wanted(part, f"{stem}.pt", md5, (f"{stem}.safetensors",))


def _files(part: str, *paths: str) -> tuple[Wanted, ...]:
    return tuple(Wanted(part, path) for path in paths)


CATALOGUE = (
    Repository(
        "nvidia/Cosmos-Transfer1-7B",
        (
            _network_file("base", "base_model", "356497b415f3b0697f8bb034d22b6807"),
            _network_file("edge", "edge_control", "a0642e300e9e184077d875e1b5920a61"),
            _network_file("vis", "vis_control", "69fdffc5006bc5d6acb29449bb3ffdca"),
            _network_file("depth", "depth_control", "80999ed60d89a8dfee785c544e0ccd54"),
            _network_file("seg", "seg_control", "3e4077a80c836bf102c7b2ac2cd5da8c"),
            _network_file("keypoint", "keypoint_control", "26619fb1686cff0e69606a9c97cac68e"),
            _network_file("upscale", "4kupscaler_control", "b28378d13f323b49445dc469dfbbc317"),
            _network_file("distilled", "edge_control_distilled", "bf7def0bb5ffb5beff1f376d2404fcb4"),
        ),
    ),
    Repository(
        "nvidia/Cosmos-Transfer1-7B-Sample-AV",
        (
            _network_file("driving", "base_model", "2006e158f8a17a3b801c661f0c01e9f2"),
            _network_file("driving", "hdmap_control", "2ddd781560d221418c2ed9258b6ca829"),
            _network_file("driving", "lidar_control", "184beee5414bcb6c0c5c0f09d8f8b481"),
        ),
    ),
    Repository(
        "nvidia/Cosmos-Tokenize1-CV8x8x8-720p",
        (
            Wanted(
                "tokenizer",
                "autoencoder.jit",
                "7f658580d5cf617ee1a1da85b1f51f0d",
                ("model.safetensors", "model.pt"),
            ),
            Wanted("tokenizer", "mean_std.pt", None, ("mean_std.safetensors",)),
        ),
    ),
    Repository(
        "google-t5/t5-11b",
        (
            *_files("text", "config.json", "spiece.model", "tokenizer.json"),
            Wanted("text", "pytorch_model.bin", "f890878d8a162e0045a25196e27089a3", ("model.safetensors",)),
        ),
    ),
    Repository(
        "nvidia/Cosmos-Guardrail1",
        (
            *_files("guardrail", "blocklist/custom/*", "blocklist/exact_match/*", "blocklist/whitelist/*"),
            Wanted(
                "guardrail",
                "video_content_safety_filter/safety_filter.pt",
                "b46dc2ad821fc3b0d946549d7ade19cf",
            ),
            Wanted("guardrail", "face_blur_filter/Resnet50_Final.pth"),
        ),
    ),
    Repository(
        "google/siglip-so400m-patch14-384",
        _files("guardrail", "config.json", "preprocessor_config.json", "model.safetensors"),
    ),
    Repository(
        "meta-llama/Llama-Guard-3-8B",
        (
            *_files("guardrail", "config.json", "tokenizer.json", "tokenizer_config.json"),
            *_files("guardrail", "special_tokens_map.json", "model.safetensors.index.json"),
            Wanted("guardrail", "model-00001-of-00004.safetensors", "5748060ae47b335dc19263060c921a54"),
            *_files("guardrail", *(f"model-0000{i}-of-00004.safetensors" for i in (2, 3, 4))),
        ),
        gate="accept Meta's licence and request access (granted by a person, it can take a day)",
    ),
    Repository(
        "nvidia/Cosmos-UpsamplePrompt1-12B-Transfer",
        (
            Wanted("upsampler", "consolidated.safetensors", "d06e6366e003126dcb351ce9b8bf3701"),
            *_files("upsampler", "params.json", "tekken.json"),
        ),
    ),
    Repository(
        "depth-anything/Depth-Anything-V2-Small-hf",
        (
            *_files("depth_anything", "config.json", "preprocessor_config.json"),
            Wanted("depth_anything", "model.safetensors", "14e97d7ed2146d548c873623cdc965de"),
        ),
    ),
    Repository(
        "IDEA-Research/grounding-dino-tiny",
        (
            *_files("grounding_dino", "config.json", "preprocessor_config.json", "tokenizer_config.json"),
            *_files("grounding_dino", "tokenizer.json", "vocab.txt", "special_tokens_map.json"),
            Wanted("grounding_dino", "model.safetensors", "0739b040bb51f92464b4cd37f23405f9"),
        ),
    ),
    Repository(
        "facebook/sam2-hiera-large",
        _files("sam2", "config.json", "preprocessor_config.json", "processor_config.json", "model.safetensors"),
    ),
)

PARTS = tuple(dict.fromkeys(file.part for repository in CATALOGUE for file in repository.files))


def chosen_parts(only: str) -> tuple[str, ...]:
    """Read `--only`: comma-separated parts, or nothing for the default ones.

    Raises:
        UsageError: a word that is no part.
    """
    words = tuple(part.strip() for part in only.split(",") if part.strip())
    if unknown := [word for word in words if word not in PARTS]:
        raise UsageError(f"only is {only!r}: {unknown[0]!r} is no part; parts are {', '.join(PARTS)}")
    return words or DEFAULT_PARTS


def wanted_of(parts: Iterable[str], catalogue: tuple[Repository, ...] = CATALOGUE) -> tuple[Repository, ...]:
    """The repositories that the parts need, each with the files of these parts alone."""
    parts = set(parts)
    narrowed = (
        Repository(repository.id, tuple(file for file in repository.files if file.part in parts), repository.gate)
        for repository in catalogue
    )
    return tuple(repository for repository in narrowed if repository.files)
