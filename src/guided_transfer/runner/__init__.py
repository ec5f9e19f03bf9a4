"""Do it for ten thousand: plan, ledger, claims, and engines that all give the same result.

Nothing here imports a model, or torch at import. What is handed in is a `ProcessFactory`.
"""

from guided_transfer.runner.ledger import Ledger, RunIdentity
from guided_transfer.runner.local import LocalEngine
from guided_transfer.runner.plan import EpisodeTask, Plan, Shard, build_plan
from guided_transfer.runner.process import EpisodeOutcome, Event, Place, Process, ProcessFactory
from guided_transfer.runner.run import Engine, RunSummary, run
from guided_transfer.runner.status import RunStatus, follow_status, read_status, status_table
from guided_transfer.runner.workspace import Workspace

__all__ = [
    "Engine",
    "EpisodeOutcome",
    "EpisodeTask",
    "Event",
    "Ledger",
    "LocalEngine",
    "Place",
    "Plan",
    "Process",
    "ProcessFactory",
    "RunIdentity",
    "RunStatus",
    "RunSummary",
    "Shard",
    "Workspace",
    "build_plan",
    "follow_status",
    "read_status",
    "run",
    "status_table",
]
