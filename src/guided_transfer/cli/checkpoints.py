"""`guided-transfer checkpoints download|verify|convert`: get the official weights, check them, load them faster."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

from guided_transfer.cli.arguments import parse
from guided_transfer.cli.settings import JsonFlag
from guided_transfer.errors import CheckpointError, DeviceError, UsageError

if TYPE_CHECKING:
    from guided_transfer.checkpoints.verify import FileState

OnlyField = Field(
    default="", description="parts, comma-separated: base,edge,vis,depth,seg,... (a wrong one lists all)"
)


class DownloadSettings(BaseModel):
    """What to fetch, and where to."""

    output_dir: Path = Field(default=Path("checkpoints"), description="folder of the official tree")
    only: str = OnlyField


class VerifySettings(BaseModel):
    """Which tree, checked how far."""

    checkpoint_dir: Path = Field(default=Path("checkpoints"), description="folder of the official tree")
    only: str = OnlyField
    checksums: bool = Field(default=True, description="read every byte; --no_checksums looks at sizes and headers")
    json_lines: JsonFlag = Field(default=False, description="print one JSON object per file")


class ConvertSettings(BaseModel):
    """Which tree."""

    checkpoint_dir: Path = Field(default=Path("checkpoints"), description="folder of the official tree")


def main(argv: Sequence[str]) -> int:
    """Run one of the actions and return its exit code."""
    action = argv[0] if argv else ""
    if action in ("-h", "--help"):
        print(__doc__)
        return 0
    if action not in ACTIONS:
        raise UsageError(f"checkpoints {action!r}: say what to do, one of {', '.join(ACTIONS)}")
    command, act = ACTIONS[action]
    settings, _ = parse(argv[1:], command, prog=f"guided-transfer checkpoints {action}", about=act.__doc__ or "")
    return act(settings)


def download_tree(settings: DownloadSettings) -> int:
    """Fetch what is used of the official weights; a download that was stopped goes on where it was."""
    from guided_transfer.checkpoints.catalogue import chosen_parts
    from guided_transfer.checkpoints.download import RemoteFile, download

    def tell_plan(files: Sequence[RemoteFile]) -> None:
        print(
            f"{len(files)} files, {readable_size(sum(f.bytes for f in files))} to {settings.output_dir}", flush=True
        )

    states = download(
        settings.output_dir,
        chosen_parts(settings.only),
        on_plan=tell_plan,
        on_file=lambda file: print(f"{file.path}  {readable_size(file.bytes)}", flush=True),
    )
    draw(settings.output_dir, [state for state in states if state.state != "unneeded"])
    return 0


def verify_tree(settings: VerifySettings) -> int:
    """Draw the tree with what is present, missing, corrupt and unneeded; 0 when whole, 3 when not."""
    from rich.console import Console

    from guided_transfer.checkpoints.catalogue import chosen_parts
    from guided_transfer.checkpoints.verify import verify

    parts = chosen_parts(settings.only)
    if (settings.checkpoint_dir / "checkpoint.json").exists() or str(settings.checkpoint_dir) == "bundled":
        raise UsageError(
            f"checkpoint_dir {str(settings.checkpoint_dir)!r} describes itself by a checkpoint.json; verify knows "
            "the checksums of the official tree. `guided-transfer doctor` checks that any tree can be loaded"
        )
    with Console(stderr=True).status("") as status:
        states = verify(
            settings.checkpoint_dir,
            parts,
            checksums=settings.checksums,
            on_file=lambda file: status.update(f"reading {file.relative_to(settings.checkpoint_dir)}"),
        )
    if settings.json_lines:
        print("\n".join(json.dumps(asdict(state)) for state in states))
    else:
        draw(settings.checkpoint_dir, states)
    return 3 if any(state.state in ("missing", "corrupt") for state in states) else 0


def draw(root: Path, states: Sequence[FileState]) -> None:
    """Print the tree, the counts, and the command that fetches what is not there."""
    from rich.console import Console
    from rich.markup import escape
    from rich.tree import Tree

    colours = {"present": "green", "missing": "red", "corrupt": "red", "unneeded": "yellow"}
    tree = Tree(str(root))
    folders: dict[tuple[str, ...], Tree] = {(): tree}
    for state in sorted(states, key=lambda state: state.path):
        *parents, name = state.path.split("/")
        for depth in range(1, len(parents) + 1):
            path = tuple(parents[:depth])
            if path not in folders:
                folders[path] = folders[path[:-1]].add(f"{path[-1]}/")
        facts = ", ".join(fact for fact in (readable_size(state.bytes) if state.bytes else "", state.note) if fact)
        label = f"{escape(name)}  [{colours[state.state]}]{state.state}[/]"
        folders[tuple(parents)].add(label + (f"  {escape(facts)}" if facts else ""))
    console = Console(soft_wrap=True, highlight=False)
    console.print(tree)
    counts = {state: sum(s.state == state for s in states) for state in colours}
    console.print(", ".join(f"{count} {state}" for state, count in counts.items()))
    if spare := sum(state.bytes for state in states if state.state == "unneeded"):
        console.print(f"unneeded files take {readable_size(spare)}; nothing reads them")
    if parts := dict.fromkeys(s.part for s in states if s.state in ("missing", "corrupt")):
        console.print(f"next: guided-transfer checkpoints download --output_dir {root} --only {','.join(parts)}")


def convert_tree(settings: ConvertSettings) -> int:
    """Write network and text encoder as safetensors beside their files; these stay, and are read no more."""
    from guided_transfer.models.checkpoint import CheckpointTree, convert_text_encoder, convert_to_safetensors

    tree = CheckpointTree.open(settings.checkpoint_dir)
    t5 = tree.text_encoder_folder / "pytorch_model.bin"
    targets = {source: source.with_suffix(".safetensors") for source in sorted(tree.network_folder.glob("*.pt"))}
    if t5.is_file():
        targets[t5] = t5.with_name("model.safetensors")
    if not targets:
        raise CheckpointError(f"{tree.root}: no .pt file of a network to convert, and no {t5}")
    waiting = [source for source, target in targets.items() if not target.exists()]
    needed, free = sum(source.stat().st_size for source in waiting), shutil.disk_usage(tree.root).free
    if needed > free:
        raise DeviceError(
            f"{tree.root}: {readable_size(needed)} needed for the copies, {readable_size(free)} are free"
        )
    for source, target in targets.items():
        if source in waiting:
            (convert_text_encoder if source == t5 else convert_to_safetensors)(source)
            print(f"{target}: written, {readable_size(target.stat().st_size)}", flush=True)
        else:
            print(f"{target}: is there already")
    return 0


def readable_size(num_bytes: float) -> str:
    """Bytes with a unit."""
    for unit in ("bytes", "KiB", "MiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} GiB"


ACTIONS: dict[str, tuple[type[BaseModel], Callable]] = {
    "download": (DownloadSettings, download_tree),
    "verify": (VerifySettings, verify_tree),
    "convert": (ConvertSettings, convert_tree),
}
