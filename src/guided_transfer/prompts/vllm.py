"""`vllm serve` as a child process: started, waited for, and gone with the process that wanted it.

vLLM pins its own torch and lives in an environment of its own; it is spoken to over HTTP alone.
"""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.request import urlopen

from guided_transfer.errors import UsageError
from guided_transfer.prompts.endpoint import EndpointError

START_LIMIT_S = 1800.0
"""A model of 25 GB from a slow disk, compiled for the first time, takes minutes."""
LOOK_EVERY_S = 0.5
GRACE_S = 10.0
"""So long it may take to end by itself; then it is killed."""
LOG_LINES = 15
"""Lines of the log that an error shows."""
OF_A_LAUNCHER = ("TORCHELASTIC_", "GROUP_", "ROLE_", "LOCAL_", "MASTER_", "TORCH_NCCL_")
"""What torchrun tells its ranks; vLLM would take itself for one."""
QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
"""vLLM reports its use to its makers unless it is told not to."""


class VllmServer:
    """One model served on loopback, as long as the `with` block runs.

    Args:
        command: words that start vLLM, such as `vllm` or `/opt/vllm/bin/vllm`.
        folder: of the model.
        options: further words of `vllm serve`.
        log: file for what it prints.
        device_index: which GPU it takes, counted as this process counts them; None leaves the choice to vLLM.
        start_limit_s: for getting ready.
        grace_s: for ending when it is asked to.
        on_wait: told the seconds so far and the last line of the log, while the model is loaded.

    Raises (on entering):
        UsageError: there is no such command.
        EndpointError: it ended, or was not ready in time; shows the end of its log.
    """

    def __init__(
        self,
        command: str,
        folder: Path,
        options: Sequence[str] = (),
        *,
        log: Path,
        device_index: int | None = None,
        start_limit_s: float = START_LIMIT_S,
        grace_s: float = GRACE_S,
        on_wait: Callable[[float, str], None] = lambda seconds, line: None,
    ) -> None:
        self.port = _free_port()
        self.base_url = f"http://127.0.0.1:{self.port}/v1"
        address = ["--host", "127.0.0.1", "--port", str(self.port)]
        self.words = [*find_program(command), "serve", str(folder), *address, *options]
        self.log = log
        self.device_index = device_index
        self.start_limit_s = start_limit_s
        self.grace_s = grace_s
        self.on_wait = on_wait
        self._keeper: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            self._keeper = subprocess.Popen(
                [sys.executable, "-m", "guided_transfer.prompts.keeper", str(self.grace_s), *self.words],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment(os.environ, self.device_index),
                start_new_session=True,  # Ctrl-C is for us: we end it when we have tidied up
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End it and everything it started; returns when that is so."""
        if self._keeper is None:
            return
        assert self._keeper.stdin is not None
        self._keeper.stdin.close()
        try:
            self._keeper.wait(self.grace_s + 10)
        finally:
            self._keeper.kill()
            self._keeper.wait()
            self._keeper = None

    def _wait_until_ready(self) -> None:
        assert self._keeper is not None
        start_s = time.monotonic()
        while (waited_s := time.monotonic() - start_s) < self.start_limit_s:
            if (code := self._keeper.poll()) is not None:
                raise EndpointError(f"{self._said()}\n{shlex.join(self.words)} ended with exit code {code}")
            if _answers(f"{self.base_url}/models"):
                return
            self.on_wait(waited_s, self._said(1))
            time.sleep(LOOK_EVERY_S)
        raise EndpointError(
            f"{self._said()}\n{shlex.join(self.words)} was not ready after {self.start_limit_s:.0f} s"
        )

    def _said(self, num_lines: int = LOG_LINES) -> str:
        with self.log.open(encoding="utf-8", errors="replace") as log:
            return "\n".join(line.rstrip() for line in deque(log, num_lines))


def environment(ours: Mapping[str, str], device_index: int | None) -> dict[str, str]:
    """What the child sees of an environment: one GPU, and nothing of a launcher of ranks."""
    launcher = ("RANK", "WORLD_SIZE", "OMP_NUM_THREADS")
    kept = {name: ours[name] for name in ours if name not in launcher and not name.startswith(OF_A_LAUNCHER)}
    if device_index is not None:
        visible = [name for name in ours.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        kept["CUDA_VISIBLE_DEVICES"] = visible[device_index] if visible else str(device_index)
    return {**kept, **QUIET}


def find_program(command: str) -> list[str]:
    """The words of a command whose program is there.

    Raises:
        UsageError: it is not.
    """
    words = [os.path.expanduser(word) for word in shlex.split(command)]  # noqa: PTH111 (a word, not a path)
    if not words or shutil.which(words[0]) is None:
        raise UsageError(
            f"upsampler_command {command!r}: no such program. Install vLLM in an environment of its own (python -m "
            "venv vllm && vllm/bin/pip install vllm) and give --upsampler_command vllm/bin/vllm, or name a server "
            "that runs already with --upsampler_base_url"
        )
    return words


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5) as response:
            return response.status == 200
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
