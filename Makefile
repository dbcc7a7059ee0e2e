# Everything runs in .venv, made from the hashed lock. `make demo` and `make test` are all a newcomer needs.
PY     ?= python3
BIN    := .venv/bin
UV     := .venv/boot/bin/uv
STAMP  := .venv/.installed
DEV    := .venv/.installed-dev
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test down up lock
