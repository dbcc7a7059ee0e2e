"""Generates docs/reference from the code: `make reference`."""
