"""Prometheus metrics of the loop: batches, decisions, rollouts, flow runs, workers, disk. A separate process, started
by `python -m deployments.exporter`; the model server exports its own metrics (`serving.metrics`).

`ledger_metrics` reads the ledger, `prefect_metrics` Prefect, `host_metrics` the host; `polling` calls them repeatedly.
"""
