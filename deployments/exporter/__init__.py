"""The loop as Prometheus sees it: batches, decisions, rollouts, flow runs, workers, disk. A process of its own, started
as `python -m deployments.exporter`; what the model server does is told by the server itself (`serving.metrics.server`).

What is read where: `records` the ledger, `runs` Prefect, `machine` the state folder; `rounds` reads them over and over.
"""
