"""The model server: it answers with the champion, records every answer, and follows the ledger. It never imports
Prefect, MLflow or Evidently. `python -m serving` starts it."""
