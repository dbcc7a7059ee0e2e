"""The DVC pipeline: validate, train and evaluate from files to files, without a server, by the same pure functions
as the flows. `dvc.yaml` calls `python -m tasks.pipeline STAGE`; `python -m tasks.pipeline data` makes the rows."""
