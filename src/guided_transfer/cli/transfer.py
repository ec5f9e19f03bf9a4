"""The main job: `guided-transfer transfer --source_data_dir IN --output_data_dir OUT --checkpoint_dir bundled`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from guided_transfer import __version__
from guided_transfer.cli.arguments import flattened, parse_transfer

if TYPE_CHECKING:
    from pathlib import Path

    from guided_transfer.cli.progress import Quiet
    from guided_transfer.cli.resolved import ResolvedRun
    from guided_transfer.runner.ledger import Ledger
    from guided_transfer.runner.plan import Plan
    from guided_transfer.runner.run import Engine

ABOUT = (
    "Simulated episodes in, realistic two-view episodes out. The command line wins over the controlnet_specs "
    "JSON, that over the checkpoint's own defaults, those over the defaults below."
)

CHANGES_NO_PICTURE = frozenset(
    {
        *("source_data_dir", "output_data_dir", "save_name_offset", "overwrite", "report"),
        *("video_save_folder", "video_save_name"),
        *(
            "only",
            "limit",
            "variants",
            "max_failures",
            "shard",
            "ray_address",
            "ray_workers",
            "checkpoint_dir",
            "tokenizer_dir",
            *("vision_dir", "yolox_onnx", "rtmpose_onnx"),
            "engine",
        ),
        *("offload_diffusion_transformer", "offload_text_encoder_model", "offload_guardrail_models"),
        *("offload_prompt_upsampler", "upsampler_command", "upsampler_base_url"),
        *("gpu_memory_gb", "quiet", "json_lines", "dry_run", "preview"),
    }
)
"""A run that differs from an earlier one in these alone may continue in its folder; weights count by content."""


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    command_line = parse_transfer(argv, prog="guided-transfer transfer", about=ABOUT)
    # torch is imported from here on, when --help has long been printed
    from guided_transfer.cli.resolve import resolve

    run = resolve(command_line)
    if run.source is None:
        from guided_transfer.cli.single import transfer_video

        return transfer_video(run)
    return transfer_episodes(run)


def transfer_episodes(run: ResolvedRun) -> int:
    """Transfer a folder of episodes."""
    from guided_transfer.cli.plan import output_folder, plan_episodes
    from guided_transfer.cli.process import EpisodeTransferFactory
    from guided_transfer.cli.progress import reporter
    from guided_transfer.runner.ledger import Ledger
    from guided_transfer.runner.run import check
    from guided_transfer.runner.run import run as run_plan

    assert run.source is not None
    plan, output_dir = plan_episodes(run), output_folder(run)
    plan.check_output(output_dir)
    report = reporter(run.settings.run.quiet, run.settings.run.json_lines)
    for note in run.notes:
        report.note(note)
    if run.settings.run.dry_run:
        return dry_run(run, plan, output_dir)
    if run.settings.run.preview:
        from guided_transfer.cli.preview import contact_sheet

        return contact_sheet(run, plan, output_dir)
    ledger = Ledger(output_dir, identity(run), overwrite=run.settings.outputs.overwrite)
    check(plan, ledger)  # before bars are drawn; a dry run refuses the same
    if run.settings.prompts.upsample_prompt:
        write_out_prompts(run, plan, ledger, report)
    report.start(len(plan))
    try:
        summary = run_plan(
            plan,
            EpisodeTransferFactory(run, output_dir),
            ledger,
            engine=engine(run),
            max_failures=run.settings.run.max_failures,
            on_event=report.event,
        )
    finally:
        report.stop()
    report.note(f"{summary} in {output_dir}")
    if run.settings.outputs.report and not int(os.environ.get("RANK", 0)):
        from guided_transfer.cli.report import finish_report

        try:
            report.note(f"report: {finish_report(output_dir)}")
        except OSError as error:  # the episodes are safe, and that is what the exit code is about
            report.note(
                f"the report could not be written: {error}; `guided-transfer report {output_dir}` tries again"
            )
    return summary.exit_code


def dry_run(run: ResolvedRun, plan: Plan, output_dir: Path) -> int:
    """Print what the run would do and return the exit code that its output folder would give it; write nothing.

    Raises:
        UsageError, RunConflict, OutputError: whatever the run itself would refuse.
    """
    from guided_transfer.cli.plan import look_into_files, print_plan
    from guided_transfer.runner.ledger import Ledger, RunIdentity
    from guided_transfer.runner.run import check, look_ahead

    engine(run)
    # the weights are hashed where there may be a run to differ from: of a full tree that takes a while
    known = identity(run) if output_dir.exists() else RunIdentity({}, __version__)
    ledger = Ledger(output_dir, known, overwrite=run.settings.outputs.overwrite)
    check(plan, ledger)
    outlook = look_into_files(run, look_ahead(plan, ledger))
    print_plan(run, outlook, output_dir)
    return outlook.exit_code


def write_out_prompts(run: ResolvedRun, plan: Plan, ledger: Ledger, report: Quiet) -> None:
    """Let the upsampler have the GPU to itself before anything else is loaded."""
    from guided_transfer.cli.upsample import WrittenPrompts

    if not ledger.overwrite:
        ledger.open()  # a folder of other settings is refused before the model is asked, not after
    WrittenPrompts.of(run, ledger.output_dir).write_out(plan.tasks, report)


def engine(run: ResolvedRun) -> Engine:
    """Where the workers live."""
    from guided_transfer.runner.local import LocalEngine
    from guided_transfer.runner.ray_engine import RayEngine
    from guided_transfer.runner.torchrun import TorchrunEngine

    wanted = run.settings.run.engine
    if wanted == "torchrun" or (wanted == "auto" and "TORCHELASTIC_RUN_ID" in os.environ):
        return TorchrunEngine(run.settings.run.num_gpus)
    if wanted == "ray":
        return RayEngine(run.settings.run.ray_address or None, run.settings.run.ray_workers)
    return LocalEngine()


def identity(run: ResolvedRun) -> Any:
    """Everything but the episodes that decides what comes out."""
    from guided_transfer.cli.process import machine
    from guided_transfer.cli.weights import weight_hashes
    from guided_transfer.runner.ledger import RunIdentity

    return RunIdentity(
        settings=deciding_settings(run),
        code=__version__,
        weights=weight_hashes(run.tree, {**run.network_files(), **companion_files(run)}),
        about={**machine(run), "settings": flattened(run.settings)},
    )


def companion_files(run: ResolvedRun) -> dict[str, list[Path]]:
    """What decides beside the network: the guardrails over what is published, the upsampler over the prompts, the
    vision models over what is seen.
    """
    from guided_transfer.prompts import upsampler
    from guided_transfer.safety import guardrail_files

    prompts, files = run.settings.prompts, {}
    if run.guarded:
        files["guardrail"] = guardrail_files(run.tree.root)
    if prompts.upsample_prompt and not prompts.upsampler_base_url:
        files["upsampler"] = [run.tree.root / upsampler.FOLDER / name for name in upsampler.FILES]
    return files | {part: run.vision_files.files(part, what) for part, what in run.vision_needs.items()}


def deciding_settings(run: ResolvedRun) -> Mapping[str, Any]:
    """The settings that a picture depends on, with what their files hold instead of the files' names."""
    values = {name: value for name, value in flattened(run.settings).items() if name not in CHANGES_NO_PICTURE}
    if not run.settings.inputs.schema_name:
        del values["schema_name"]  # runs from before it could be named know no such setting, and are to go on
    return {
        **values,
        "device": run.device.partition(":")[0],
        "cpu_threads": run.cpu_threads if run.device.startswith("cpu") else None,
        "dtype": str(run.dtype),
        "foreground_mask": hashes_of(run.settings.inputs.foreground_mask),
        "controlnet_specs": {kind: hint.model_dump(mode="json") for kind, hint in run.specs.active.items()},
        "prompt": [[prompt.name, prompt.room, prompt.wrist] for prompt in run.prompts],
        "model_config_file": run.tree.config.model_dump(mode="json", exclude={"defaults", "name"}),
    }


def hashes_of(folder: str) -> Mapping[str, str]:
    """SHA-256 of the files in a folder by name; nothing where none is named."""
    from pathlib import Path

    from guided_transfer.runner.files import sha256_file

    files = sorted(Path(folder).iterdir()) if folder else []
    return {file.name: sha256_file(file) for file in files if file.is_file()}
