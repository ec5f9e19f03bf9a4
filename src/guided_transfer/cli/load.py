"""The models of a run, where the worker stands and within the memory it may use."""

from __future__ import annotations

import cv2
import torch

from guided_transfer.cli.progress import Quiet, reporter
from guided_transfer.cli.resolved import ResolvedRun
from guided_transfer.cli.vision import Vision
from guided_transfer.clips import FRAMES_PER_LATENT, PIXELS_PER_TOKEN, TYPICAL_VIEW
from guided_transfer.generation import GenerationSettings
from guided_transfer.models.text import load_text_encoder
from guided_transfer.models.tokenizer import load_tokenizer
from guided_transfer.pipeline import TransferPipeline
from guided_transfer.runner.process import Place
from guided_transfer.safety import Guardrails, load_guardrails

LARGE_NETWORK = 10**9
"""Parameters from which on compiling pays: for the 7B model it takes 10 s and saves a twentieth of every step."""

FORWARD_TENSORS = 25
"""Tensors [tokens, channels] that a forward holds at its peak; measured at 57,600 tokens of the 7B sizes: 24.4."""


def load_pipeline(
    run: ResolvedRun, place: Place | None = None, generation: GenerationSettings | None = None
) -> TransferPipeline:
    """The models of a run on a worker's device, and its threads as the run says, whatever a launcher chose."""
    _hush_libraries()
    _set_threads(run)
    device = place_device(run, place)
    memory, host = run.settings.memory, torch.device("cpu")
    streams = limit_memory(run, device)
    pipeline = TransferPipeline(
        run.load_network(host if streams or memory.offload_diffusion_transformer else device),
        load_tokenizer(run.tree, device=device, dtype=run.dtype),
        load_text_encoder(run.tree, device=host if memory.offload_text_encoder_model else device, dtype=run.dtype),
        generation or run.generation,
        device=device,
        offload_network=memory.offload_diffusion_transformer,
        offload_text_encoder=memory.offload_text_encoder_model,
    )
    if place and place.group_size > 1:
        pipeline.network.share_tokens(place.group)
    if streams:
        pipeline.stream_network()
    elif wants_compiled(run, pipeline):
        compile_network(run, pipeline)
    return pipeline


def wants_compiled(run: ResolvedRun, pipeline: TransferPipeline) -> bool:
    """Whether the run's --compile, or the size of its network, asks for compiled blocks."""
    asked = run.settings.model.compile
    parameters = sum(parameter.numel() for parameter in pipeline.network.parameters())
    return asked == "on" or (asked == "auto" and pipeline.device.type == "cuda" and parameters >= LARGE_NETWORK)


def compile_network(run: ResolvedRun, pipeline: TransferPipeline) -> None:
    """Compile the network's blocks; where nothing can be compiled, say so and go on without."""
    try:
        torch.compile(torch.add)(torch.ones(8, device=pipeline.device), 1)
    except Exception as error:  # whatever a missing compiler looks like on this machine
        reason = str(error).strip().partition("\n")[0]
        report = reporter(run.settings.run.quiet, run.settings.run.json_lines)
        report.note(f"the network is not compiled, since torch.compile does not work here: {reason}")
    else:
        pipeline.network.compile_blocks()


def load_run_guardrails(run: ResolvedRun, place: Place | None = None) -> Guardrails:
    """The guardrails of a run; empty ones where it has none."""
    if not run.guarded:
        return Guardrails(prompt=(), video=())
    _hush_libraries()
    offload = run.settings.memory.offload_guardrail_models
    return load_guardrails(run.tree.root, place_device(run, place), offload=offload)


def load_vision(run: ResolvedRun, report: Quiet, place: Place | None = None) -> Vision:
    """The vision models of a run; each is loaded when it is first needed."""
    _hush_libraries()
    _set_threads(run)
    return Vision(run, place_device(run, place), report)


def place_device(run: ResolvedRun, place: Place | None) -> torch.device:
    """The run's device, on the card of the worker where the run leaves that open."""
    device = torch.device(run.device)
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", (place or Place()).device_index)
    return device


def limit_memory(run: ResolvedRun, device: torch.device) -> bool:
    """Keep to --gpu_memory_gb; returns whether the network must be streamed to fit."""
    if device.type != "cuda":
        return False
    total_gb = torch.cuda.get_device_properties(device).total_memory / 2**30
    limit_gb = min(run.settings.memory.gpu_memory_gb or total_gb, total_gb)
    torch.cuda.set_per_process_memory_fraction(limit_gb / total_gb, device)
    return network_memory_gb(run) > limit_gb


def network_memory_gb(run: ResolvedRun) -> float:
    """What the network and one forward of it will hold on the GPU, at the larger of the run's sizes."""
    network = run.load_network("meta")
    values = sum(parameter.numel() for parameter in network.parameters())
    latent_frames = 1 + (run.generation.clip_frames - 1) // FRAMES_PER_LATENT
    sizes = run.two_view.model_sizes(TYPICAL_VIEW, TYPICAL_VIEW) if run.source else [run.model_size(TYPICAL_VIEW)]
    pixels = max(height * width for height, width in sizes)
    tokens = latent_frames * pixels / PIXELS_PER_TOKEN**2
    values += int(FORWARD_TENSORS * tokens * network.base.config.channels)
    return values * run.dtype.itemsize / 2**30


def _set_threads(run: ResolvedRun) -> None:
    torch.set_num_threads(run.cpu_threads)
    cv2.setNumThreads(run.cpu_threads)


def _hush_libraries() -> None:
    """Keep diffusers and transformers from talking in between; faults still come as errors."""
    import diffusers.utils.logging
    import transformers.utils.logging

    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
