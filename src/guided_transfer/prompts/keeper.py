"""Runs a command until it ends, or until whoever asked for it is gone; then nothing of it is left.

    python -m guided_transfer.prompts.keeper GRACE_S COMMAND ...

The standard input is a pipe that the asking process holds and never writes to. It closes when that process wants
the command to end, and also when that process is killed, which is the one thing it cannot tidy up after. From then
on the command has GRACE_S seconds to end itself.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress


def main(grace_s: float, words: Sequence[str]) -> int:
    """Run the command in a process group of its own, and return its exit code."""
    try:
        child = subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        print(f"{words[0]}: {error.strerror}", file=sys.stderr)
        return 127
    threading.Thread(target=_end_with_the_pipe, args=(child, grace_s), daemon=True).start()
    code = child.wait()
    _signal_group(child, signal.SIGKILL)  # what it started and left behind
    return code


def _end_with_the_pipe(child: subprocess.Popen[bytes], grace_s: float) -> None:
    os.read(0, 1)  # not sys.stdin: the interpreter cannot end while a thread reads from that
    _signal_group(child, signal.SIGTERM)
    try:
        child.wait(grace_s)
    except subprocess.TimeoutExpired:
        _signal_group(child, signal.SIGKILL)


def _signal_group(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.pid, number)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
