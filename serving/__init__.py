"""The model server: answers with the champion, records every answer, follows the ledger. Never imports Prefect, MLflow
or Evidently. `python -m serving` starts it."""
