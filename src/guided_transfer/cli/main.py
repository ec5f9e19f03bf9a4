"""`guided-transfer <command>`: find the command, run it, turn errors into one line and an exit code."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Sequence

from guided_transfer import __version__
from guided_transfer.errors import Blocked, GuidedTransferError

COMMANDS = {
    "transfer": "simulated episodes in, realistic two-view episodes out",
    "status": "how far the run of an output folder is",
    "report": "build the pages of an output folder again",
    "evaluate": "measure the episodes of an output folder again, also by trained networks",
    "sweep": "faithfulness against change with several values of a setting",
    "inspect": "what an episode file holds, and what was detected",
    "validate": "every fault of every episode file of a folder",
    "simulate": "make small simulated episodes to try things on",
    "prompts": "write prompts, by a language model or without one",
    "specs": "check a controlnet_specs file, or print its JSON Schema",
    "checkpoints": "download, verify and convert the official weights",
    "doctor": "is this machine ready, and what is missing",
}
"""One module of this package each, imported only when its command runs, so that help stays quick."""

ALL_DONE, WRONG_USAGE, SOME_FAILED, NONE_DONE = range(4)
"""Exit codes."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return ALL_DONE if words else WRONG_USAGE
    if words[0] == "--version":
        print(f"guided-transfer {__version__}")
        return ALL_DONE
    if words[0] not in COMMANDS:
        return fail(f"{words[0]!r} is no command; commands are {', '.join(COMMANDS)}")
    return run_command(words[0], words[1:])


def run_command(name: str, argv: Sequence[str]) -> int:
    """Run one command's `main(argv)`; an expected error becomes a message instead of a traceback."""
    # Threads that wait spin by default, which slows workers that share cores many times; read when torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        code = importlib.import_module(f"guided_transfer.cli.{name}").main(argv)
        sys.stdout.flush()
        return code
    except Blocked as error:  # of a single video: a run of episodes goes on
        fail(str(error))
        return NONE_DONE
    except GuidedTransferError as error:
        return fail(str(error))
    except SystemExit as stop:  # the argument parser's own way out: 0 after --help, 2 for what it could not read
        return WRONG_USAGE if stop.code else ALL_DONE
    except KeyboardInterrupt:
        return fail("interrupted")
    except BrokenPipeError:  # whoever read our output, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left to flush would fail again
        return 128 + signal.SIGPIPE


def overview() -> str:
    """The commands, one line each."""
    lines = [f"  {name:<12} {about}" for name, about in COMMANDS.items()]
    return "\n".join(
        [
            "Simulated two-camera robot episodes in, photorealistic ones out.",
            "",
            "usage: guided-transfer <command> [options]",
            "",
            *lines,
            "",
            "guided-transfer <command> --help lists a command's options.",
        ]
    )


def fail(message: str) -> int:
    """Print an error and return the exit code for wrong usage."""
    print(f"error: {message}", file=sys.stderr)
    return WRONG_USAGE


if __name__ == "__main__":
    sys.exit(main())
