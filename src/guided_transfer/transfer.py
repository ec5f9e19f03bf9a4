"""`python -m guided_transfer.transfer` is `guided-transfer transfer`, for torchrun."""

import sys

from guided_transfer.cli.main import run_command

if __name__ == "__main__":
    sys.exit(run_command("transfer", sys.argv[1:]))
