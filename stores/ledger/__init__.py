"""The append-only record of batches, decisions, releases, rollouts, and of which release was live when, and why.

It is the source of truth: MLflow's aliases and Prefect's events follow it.
"""

from stores.ledger.ledger import ForeignLedger, Ledger
from stores.ledger.records import (
    Alert,
    Claim,
    ConflictError,
    CurrentRollout,
    DatasetHead,
    DatasetRecord,
    DecisionRecord,
    GateRecord,
    Landing,
    LedgerUnavailable,
    LiveRelease,
    Outcome,
    Release,
    Rollout,
    RolloutObservation,
    RolloutStep,
    ValidationRecord,
    utc,
)

__all__ = [
    "Alert",
    "Claim",
    "ConflictError",
    "CurrentRollout",
    "DatasetHead",
    "DatasetRecord",
    "DecisionRecord",
    "ForeignLedger",
    "GateRecord",
    "Landing",
    "Ledger",
    "LedgerUnavailable",
    "LiveRelease",
    "Outcome",
    "Release",
    "Rollout",
    "RolloutObservation",
    "RolloutStep",
    "ValidationRecord",
    "utc",
]
