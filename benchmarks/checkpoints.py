"""Time how long weights take to arrive, before and after `guided-transfer checkpoints convert`.

    PYTHONPATH=src python benchmarks/checkpoints.py --network_gb 1 --text_gb 1

Random files of the official form are made in a scratch folder. A load ends when every weight has been copied out
once, as it is on the way to a GPU: a file that is only mapped has not been read. Every row is a process of its own,
which loads "cold", after the file was dropped from the page cache, and then "warm"; ratios are of this one run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

READERS = {
    "network, torch.load of the .pt (as the reference)": ("base_model.pt", "torch_load"),
    "network, our loader, .pt": ("base_model.pt", "our_loader"),
    "network, our loader, converted": ("base_model.safetensors", "our_loader"),
    "text, T5EncoderModel, pytorch_model.bin": ("bin/pytorch_model.bin", "text_encoder"),
    "text, T5EncoderModel, converted": ("safe/model.safetensors", "text_encoder"),
}
"""By row: the file that is read, and by which function of this script."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network_gb", type=float, default=1.0, help="size of the .pt file [GB]")
    parser.add_argument("--text_gb", type=float, default=1.0, help="size of pytorch_model.bin [GB]")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results/checkpoints-cpu.json")
    parser.add_argument("--load", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.load:
        reader, file = globals()[args.load[0]], Path(args.load[1])
        print(reader(file), reader(file))
        return
    with tempfile.TemporaryDirectory() as folder:
        sizes = make_files(Path(folder), args)
        seconds = {row: {"cold": [], "warm": []} for row in READERS}
        for _ in range(args.repeats):
            for row, (name, reader) in READERS.items():  # rows in turn, so that a slow minute slows all of them
                file = Path(folder) / name
                drop_from_cache(file)
                for state, value in zip(("cold", "warm"), timed_loads(reader, file), strict=True):
                    seconds[row][state].append(value)
                    print(f"{row}, {state}: {value:.2f} s", flush=True)
    report(seconds, sizes, args)


def make_files(folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """The official forms and what `checkpoints convert` makes of them; sizes in GB by name."""
    from transformers import T5Config, T5ForConditionalGeneration

    from guided_transfer.models.checkpoint import convert_text_encoder, convert_to_safetensors

    torch.manual_seed(0)
    block = torch.randn(4096, 4096, dtype=torch.bfloat16)  # 34 MB, about the size of the 7B model's matrices
    count = round(args.network_gb * 1e9 / (2 * block.numel()))
    names = [f"base_model.net.blocks.block{i}.blocks.0.block.attn.to_q.0.weight" for i in range(count)]
    torch.save({name: block + i for i, name in enumerate(names)}, folder / "base_model.pt")
    convert_to_safetensors(folder / "base_model.pt")

    width = 1024
    layers = max(1, round(args.text_gb * 1e9 / (4 * 28 * width**2)))  # an encoder and a decoder layer of float32
    config = T5Config(vocab_size=32128, d_model=width, d_ff=4 * width, d_kv=64, num_heads=16, num_layers=layers)
    for name in ("bin", "safe"):
        (folder / name).mkdir()
        config.save_pretrained(folder / name)
    torch.save(T5ForConditionalGeneration(config).state_dict(), folder / "bin/pytorch_model.bin")
    convert_text_encoder(folder / "bin/pytorch_model.bin").rename(folder / "safe/model.safetensors")
    return {name: round((folder / name).stat().st_size / 1e9, 2) for name, _ in READERS.values()}


def drop_from_cache(file: Path) -> None:
    """Have the next read come from the disk."""
    descriptor = os.open(file, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def timed_loads(reader: str, file: Path) -> list[float]:
    words = [sys.executable, __file__, "--load", reader, str(file)]
    said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    return [float(word) for word in said.split()[-2:]]


def torch_load(file: Path) -> float:
    start = time.perf_counter()
    copy_out(torch.load(file, map_location="cpu", weights_only=True).values())
    return time.perf_counter() - start


def our_loader(file: Path) -> float:
    from guided_transfer.models.checkpoint import read_tensors

    start = time.perf_counter()
    copy_out(read_tensors([file]).values())
    return time.perf_counter() - start


def text_encoder(file: Path) -> float:
    from transformers import T5EncoderModel

    start = time.perf_counter()
    copy_out(T5EncoderModel.from_pretrained(file.parent, dtype=torch.float32, weights_only=True).parameters())
    return time.perf_counter() - start


def copy_out(tensors) -> None:
    for tensor in tensors:
        tensor.detach().clone()


def report(seconds: dict, sizes: dict[str, float], args: argparse.Namespace) -> None:
    first = {"network": None, "text": None}
    rows = []
    for row, states in seconds.items():
        kind = row.partition(",")[0]
        first[kind] = first[kind] or states
        medians = {state: round(median(values), 2) for state, values in states.items()}
        ratios = {state: round(medians[state] / median(first[kind][state]), 2) for state in medians}
        rows.append({"row": row, "gb": sizes[READERS[row][0]], "seconds": medians, "of_the_first_row": ratios})
        print(f"{row:<52} {sizes[READERS[row][0]]:5.2f} GB  seconds {medians}  of the first row {ratios}")
    machine = {"torch": torch.__version__, "platform": platform.platform(), "cores": os.cpu_count()}
    settings = {key: str(value) for key, value in vars(args).items() if key not in ("output", "load")}
    args.output.write_text(json.dumps({"settings": settings, "machine": machine, "rows": rows}, indent=2) + "\n")
    print(f"written to {args.output}")


if __name__ == "__main__":
    main()
