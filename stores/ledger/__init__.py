"""The append-only record of batches, decisions, releases, rollouts and of who was live when, and why.

It is the source of truth: MLflow's aliases and Prefect's events follow it.
"""

from stores.ledger.ledger import Ledger
from stores.ledger.records import (
    BatchCheck,
    Claim,
    Decision,
    Gate,
    Head,
    Landing,
    LedgerUnavailable,
    Live,
    Look,
    LostRace,
    Step,
)

__all__ = [
    "BatchCheck",
    "Claim",
    "Decision",
    "Gate",
    "Head",
    "Landing",
    "Ledger",
    "LedgerUnavailable",
    "Live",
    "Look",
    "LostRace",
    "Step",
]
