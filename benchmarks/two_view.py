"""Time the whole command on one two-view episode: random weights at the full 7B size, or a tiny tree.

    python benchmarks/two_view.py --work /dev/shm/two_view --num_steps 4 --gpu_memory_gb 44
    python benchmarks/two_view.py --work /tmp/two_view --model tiny

Makes a checkpoint folder in the official layout (once; 22 GB, so best in memory), simulates an episode (once), runs
the command as a process of its own, follows its progress and reads seconds by stage and peak memory from the record
it leaves. Few steps are labelled: `sample` grows with num_steps + 1, everything else does not depend on it.
Arguments that are not ours go to the command. The result is written at every new stage, so that a run that is cut
short still tells how far it came. Without PyAV no videos and no report are written.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from guided_transfer.models.checkpoint import save_network
from guided_transfer.models.control import ControlConfig
from guided_transfer.models.network import TransferNetwork
from guided_transfer.models.transformer import TransformerConfig
from guided_transfer.scenes import simulate

CONTROLS = ("edge", "depth", "seg")
TINY = {"blocks": 2, "channels": 128, "heads": 4, "mlp_channels": 256, "text_channels": 64, "lora_channels": 16}
TINY_SIZES = "{clip_frames: 17, text_tokens: 512, native_sizes: [[64, 64], [128, 64]]}"
WORDS = ["<pad>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz .,"]


def main() -> None:
    args = parse_arguments()
    tree, episodes = args.work / f"tree_{args.model}", args.work / "episodes"
    start = time.perf_counter()
    if not (tree / "complete").exists():
        make_tree(tree, tiny=args.model == "tiny")
    print(f"weights ready after {time.perf_counter() - start:.0f} s", flush=True)
    if not (episodes / "data_0.hdf5").exists():
        simulate(episodes, num_frames=args.frames, device=best_device())
    print(f"episode ready after {time.perf_counter() - start:.0f} s", flush=True)
    out = args.work / f"out_{time.time_ns()}"
    words = [sys.executable, "-m", "guided_transfer.transfer", "--source_data_dir", str(episodes)]
    words += ["--output_data_dir", str(out), "--checkpoint_dir", str(tree), "--guardrail", "off", "--json"]
    words += ["--num_steps", str(args.num_steps), "--prompt", "a clinic"]
    if importlib.util.find_spec("av") is None:
        words += ["--no_videos", "--no_report"]
    if args.model == "tiny":
        words += ["--model_config_file", str(tree / "sizes.yaml")]
    if args.gpu_memory_gb:
        words += ["--gpu_memory_gb", str(args.gpu_memory_gb)]
    follow(args, words + args.rest, out)


def best_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for weights, episode and results")
    parser.add_argument("--model", choices=["7b", "tiny"], default="7b")
    parser.add_argument("--frames", type=int, default=121)
    parser.add_argument("--num_steps", type=int, default=4)
    parser.add_argument("--gpu_memory_gb", type=float)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/two_view_h200.json"))
    args, args.rest = parser.parse_known_args()
    return args


def make_tree(root: Path, *, tiny: bool) -> None:
    """Random weights in the official folders; T5 has 2 of its 24 layers, since it works once per run."""
    torch.manual_seed(0)
    sizes = TINY if tiny else {}
    device = best_device()
    with torch.device("meta"):
        base = TransformerConfig(**sizes)
        branches = dict.fromkeys(CONTROLS, ControlConfig(**{**sizes, "blocks": 2 if tiny else 3}))
        network = TransferNetwork.from_configs(base, branches).to(torch.bfloat16)
    network.to_empty(device=device)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    save_network(network, root / "nvidia" / "Cosmos-Transfer1-7B")
    del network
    make_tokenizer(root / "nvidia" / "Cosmos-Tokenize1-CV8x8x8-720p", tiny)
    make_text_encoder(root / "google-t5" / "t5-11b", tiny)
    (root / "sizes.yaml").write_text(TINY_SIZES)
    (root / "complete").touch()


def make_tokenizer(folder: Path, tiny: bool) -> None:
    from diffusers import AutoencoderKLCosmos
    from safetensors.torch import save_file

    widths = {"encoder_block_out_channels": (8,) * 4, "decode_block_out_channels": (8,) * 4} if tiny else {}
    folder.mkdir(parents=True)
    save_file(AutoencoderKLCosmos(**widths).to(torch.bfloat16).state_dict(), folder / "model.safetensors")
    torch.save((torch.zeros(256), torch.ones(256)), folder / "mean_std.pt")


def make_text_encoder(folder: Path, tiny: bool) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    sizes = {"d_model": 64, "d_kv": 8, "d_ff": 64, "num_heads": 2, "num_layers": 1}
    full = {"d_model": 1024, "d_kv": 128, "d_ff": 65536, "num_heads": 128, "num_layers": 2}
    config = T5Config(vocab_size=len(WORDS), **(sizes if tiny else full))
    with torch.device(best_device()):
        encoder = T5EncoderModel(config).to(torch.bfloat16)
    encoder.save_pretrained(folder)


def follow(args: argparse.Namespace, words: list[str], out: Path) -> None:
    """Run the command, note when each stage of each view began, and write what is known at every one."""
    found: dict[str, Any] = {
        "model": args.model,
        "weights": "random",
        "frames": args.frames,
        "num_steps": args.num_steps,
        "gpu_memory_gb": args.gpu_memory_gb,
        "extra": args.rest,
        "finished": False,
        "machine": {
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "notes": [],
        "began_s": {},
    }
    runs = json.loads(args.output.read_text()) if args.output.exists() else []
    args.output.parent.mkdir(parents=True, exist_ok=True)

    def write() -> None:
        args.output.write_text(json.dumps([*runs, found], indent=2) + "\n")

    start = time.perf_counter()
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as command:
        assert command.stdout is not None
        for line in command.stdout:
            now = round(time.perf_counter() - start, 1)
            print(f"{now:7.1f} s {line}", end="", flush=True)
            event = json.loads(line) if line.startswith("{") else {"event": "note", "text": line.strip()}
            if event["event"] == "note":
                found["notes"].append(event["text"])
            elif event["event"] == "progress":
                stage = " ".join(str(event[key]) for key in ("view", "stage", "clip"))
                if stage not in found["began_s"] or event["stage"] == "sample":
                    found["began_s"].setdefault(stage, now)
                    found["latest"] = {
                        "s": now,
                        "step": event["step"],
                        "memory_gb": event["memory_gb"],
                        "of": stage,
                    }
                    write()
    found["wall_s"] = round(time.perf_counter() - start, 1)
    record = out / "ledger" / "data_0.json"
    if record.exists():
        found |= summary(json.loads(record.read_text()))
    found["finished"] = command.returncode == 0
    write()
    print(json.dumps(found, indent=2))
    sys.exit(command.returncode)


def summary(record: dict[str, Any]) -> dict[str, Any]:
    """Seconds by stage and peak memory, from the ledger."""
    result = record.get("result", {}).get("demo_0")
    if result is None:
        return {"fault": record.get("reason")}
    return {
        "peak_memory_gb": result["peak_memory_gb"],
        "seconds": {name: view["seconds"] for name, view in result["views"].items()},
        "model_size": {name: view["model_size"] for name, view in result["views"].items()},
        "compiled": {name: view["compiled"] for name, view in result["views"].items()},
        "steps_of_runner": record["seconds"],
    }


if __name__ == "__main__":
    main()
