"""What may be asked for, and what may not come out: the official guardrails, closed on every failure."""

from guided_transfer.safety.guardrails import (
    LICENCE_NOTE,
    Guardrails,
    guardrail_files,
    load_guardrails,
    missing_guardrail_files,
    require_guardrails,
)

__all__ = [
    "LICENCE_NOTE",
    "Guardrails",
    "guardrail_files",
    "load_guardrails",
    "missing_guardrail_files",
    "require_guardrails",
]
