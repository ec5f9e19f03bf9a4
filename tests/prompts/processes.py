"""Whether processes of other programs have ended."""

import time
from pathlib import Path


def is_running(pid):
    """Not so for one that has ended and whose parent has not asked yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def all_end(pids, within_s=20.0):
    end = time.monotonic() + within_s
    while any(is_running(pid) for pid in pids):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
