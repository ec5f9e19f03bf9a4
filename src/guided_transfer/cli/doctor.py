"""`guided-transfer doctor`: is this machine ready? Each line is ok, or says what to do."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from guided_transfer.cli.arguments import parse
from guided_transfer.cli.settings import JsonFlag
from guided_transfer.errors import GuidedTransferError, UsageError

MIN_PYTHON = (3, 11)
MIN_TORCH = (2, 6)
MIN_DISK_GB = 10
MIN_MEMORY_GB = 8
NETWORK_MEMORY_GB = 24
"""GPU memory below which the 7B network is streamed."""


class DoctorSettings(BaseModel):
    """What to look at."""

    checkpoint_dir: str = Field(default="", description="folder, or bundled; unset = as `transfer` chooses")
    output_dir: Path = Field(default=Path(), description="folder whose disk the results go to")
    upsampler_command: str = Field(default="vllm", description="program that serves the prompt upsampler")
    llm_base_url: str = Field(default="", description="OpenAI-compatible endpoint to look for")
    json_lines: JsonFlag = Field(default=False, description="print one JSON object per line")


@dataclass(frozen=True)
class Finding:
    """One line of the answer; `todo` says what to do where it is not ok."""

    name: str
    state: Literal["ok", "note", "fault"]
    text: str
    todo: str = ""


def main(argv: Sequence[str]) -> int:
    """Look at everything and return 0, or 1 where something keeps a transfer from running."""
    settings, _ = parse(argv, DoctorSettings, prog="guided-transfer doctor", about=__doc__)
    faults = 0
    for finding in findings(settings):
        faults += finding.state == "fault"
        if settings.json_lines:
            print(json.dumps(asdict(finding)), flush=True)
        else:
            todo = f" -> {finding.todo}" if finding.todo else ""
            print(f"{finding.state:<5} {finding.name}: {finding.text}{todo}", flush=True)
    return 1 if faults else 0


def findings(settings: DoctorSettings) -> Iterator[Finding]:
    """Every line, each as soon as it is known; a check that breaks is itself a finding."""
    checks: list[tuple[str, Callable[[], Finding]]] = [
        ("Python", python),
        ("torch", torch_version),
        ("GPU", gpu),
        ("memory", memory),
        ("attention", attention),
        ("disk", lambda: disk(settings.output_dir)),
        ("checkpoint", lambda: checkpoint(settings.checkpoint_dir)),
        ("guardrails", lambda: guardrails(settings.checkpoint_dir)),
        ("upsampler", lambda: upsampler(settings.checkpoint_dir, settings.upsampler_command)),
        ("endpoint", lambda: endpoint(settings.llm_base_url)),
    ]
    for name, check in checks:
        try:
            yield check()
        except GuidedTransferError as error:
            yield Finding(name, "fault", str(error))
        except Exception as error:  # a broken driver or library must not hide the other lines
            yield Finding(name, "fault", f"the check itself failed: {type(error).__name__}: {error}")


def python() -> Finding:
    """The interpreter."""
    if sys.version_info >= MIN_PYTHON:
        return Finding("Python", "ok", platform.python_version())
    return Finding("Python", "fault", platform.python_version(), "use Python 3.11 or newer")


def torch_version() -> Finding:
    """torch, new enough to read pickles safely."""
    import torch

    found = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if found >= MIN_TORCH:
        return Finding("torch", "ok", torch.__version__)
    return Finding(
        "torch", "fault", torch.__version__, "pip install 'torch>=2.6' (older ones can run code of a .pt)"
    )


def gpu() -> Finding:
    """The GPUs, and whether torch and the driver understand each other."""
    import torch

    if not torch.cuda.is_available():
        driver = shutil.which("nvidia-smi") is not None
        todo = "torch has no CUDA, or the driver is too old: install a CUDA build of torch" if driver else ""
        text = "none that torch can use; the bundled model runs on the CPU, the 7B model wants a GPU"
        return Finding("GPU", "note", text, todo)
    names = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        names.append(f"{properties.name} {properties.total_memory / 2**30:.0f} GiB")
    small = torch.cuda.get_device_properties(0).total_memory / 2**30 < NETWORK_MEMORY_GB
    todo = "the 7B network will be streamed layer by layer, which is slow" if small else ""
    torch.ones(1, device="cuda").add_(1).item()  # a driver that is too old fails here
    return Finding("GPU", "note" if small else "ok", f"{', '.join(names)}, CUDA {torch.version.cuda}", todo)


def memory() -> Finding:
    """What the host has left."""
    available = int(_meminfo("MemAvailable")) / 2**20
    text = f"{available:.0f} GiB available"
    if available >= MIN_MEMORY_GB:
        return Finding("memory", "ok", text)
    return Finding("memory", "note", text, f"less than {MIN_MEMORY_GB} GiB: enough for the bundled model only")


def _meminfo(name: str) -> str:
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{name}:"))


def attention() -> Finding:
    """The attention kernels that torch may choose from on this device."""
    import torch

    if not torch.cuda.is_available():
        return Finding("attention", "ok", "torch's CPU kernel")
    kernels = {
        "flash": torch.backends.cuda.flash_sdp_enabled(),
        "memory-efficient": torch.backends.cuda.mem_efficient_sdp_enabled(),
        "cuDNN": torch.backends.cuda.cudnn_sdp_enabled(),
    }
    found = [name for name, enabled in kernels.items() if enabled]
    if found:
        return Finding("attention", "ok", ", ".join(found))
    return Finding(
        "attention", "note", "the plain kernel alone", "it holds all scores at once: expect out of memory"
    )


def disk(folder: Path) -> Finding:
    """Room for results."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free / 2**30
    text = f"{free:.0f} GiB free at {existing}"
    if not os.access(existing, os.W_OK):
        return Finding("disk", "fault", f"{existing} cannot be written to", "choose another --output_dir")
    if free >= MIN_DISK_GB:
        return Finding("disk", "ok", text)
    return Finding("disk", "note", text, f"less than {MIN_DISK_GB} GiB; `transfer --dry_run` says what a run needs")


def checkpoint(asked: str) -> Finding:
    """Whether every weight that a transfer needs is there under its right name and shape; no weight is read."""
    import torch

    from guided_transfer.cli.resolve import find_checkpoint_dir
    from guided_transfer.models.checkpoint import CheckpointTree, load_network

    tree = CheckpointTree.open(find_checkpoint_dir(asked)[0])
    controls = tree.controls()
    load_network(tree, controls, device="meta", dtype=torch.float32)
    for folder in (tree.tokenizer_folder, tree.text_encoder_folder):
        if not folder.is_dir():
            todo = f"guided-transfer checkpoints download --output_dir {tree.root} --only tokenizer,text"
            return Finding("checkpoint", "fault", f"{folder}: no such folder", todo)
    return Finding("checkpoint", "ok", f"{tree.config.name} at {tree.root}, controls {', '.join(controls)}")


def guardrails(asked: str) -> Finding:
    """Whether every file that the guardrails read is there."""
    from guided_transfer.cli.resolve import find_checkpoint_dir
    from guided_transfer.cli.resolved import BUNDLED
    from guided_transfer.safety import missing_guardrail_files

    root = find_checkpoint_dir(asked)[0]
    if root == BUNDLED:
        return Finding("guardrails", "ok", "the bundled model needs none")
    missing = missing_guardrail_files(Path(root))
    if not missing:
        return Finding("guardrails", "ok", "all files are there")
    todo = f"guided-transfer checkpoints download --output_dir {root} --only guardrail"
    return Finding("guardrails", "fault", f"missing: {', '.join(str(file) for file in missing)}", todo)


def upsampler(asked: str, command: str) -> Finding:
    """Whether --upsample_prompt would find its model and the program that serves it; nothing else needs them."""
    from guided_transfer.cli.resolve import find_checkpoint_dir
    from guided_transfer.cli.resolved import BUNDLED
    from guided_transfer.prompts.upsampler import FILES, FOLDER
    from guided_transfer.prompts.vllm import find_program

    root = Path(find_checkpoint_dir(asked)[0])
    if str(root) == BUNDLED:
        return Finding("upsampler", "ok", "the bundled model needs none")
    if missing := [name for name in FILES if not (root / FOLDER / name).is_file()]:
        text = f"{FOLDER} lacks {', '.join(missing)}; --upsample_prompt alone needs it"
        todo = f"guided-transfer checkpoints download --output_dir {root} --only upsampler"
        return Finding("upsampler", "note", text, todo)
    try:
        program = find_program(command)[0]
    except UsageError as error:
        return Finding("upsampler", "note", "the model is there, its server is not", str(error))
    return Finding("upsampler", "ok", f"{root / FOLDER}, served by {program}")


def endpoint(base_url: str) -> Finding:
    """Whether the language model for prompts answers."""
    if not base_url:
        return Finding("endpoint", "ok", "none asked for; prompts come from the built-in grammar (--llm_base_url)")
    from guided_transfer.prompts.endpoint import served_models

    return Finding("endpoint", "ok", f"{base_url} serves {', '.join(served_models(base_url)) or 'no model'}")
