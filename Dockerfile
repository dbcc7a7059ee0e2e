# Two images from one tree: `server` answers users and holds only what answering needs, `worker` runs the flows.
#   docker build --target server --tag trimtab-server .
#   docker build --target worker --tag trimtab-worker .
ARG PYTHON=3.11-slim-bookworm

FROM python:${PYTHON} AS interpreter
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 OMP_WAIT_POLICY=passive PATH=/opt/trimtab/bin:$PATH
RUN useradd --system --uid 10001 --home-dir /srv/trimtab --create-home trimtab

FROM interpreter AS installer
COPY requirements-boot.lock /srv/
RUN python -m venv /opt/boot \
    && /opt/boot/bin/python -m pip install --quiet --no-cache-dir --require-hashes --only-binary :all: \
       --requirement /srv/requirements-boot.lock
ENV UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy
RUN /opt/boot/bin/uv venv --quiet /opt/trimtab

FROM installer AS server-packages
COPY requirements-server.lock /srv/
RUN /opt/boot/bin/uv pip sync --quiet --python /opt/trimtab/bin/python --require-hashes --compile-bytecode \
    /srv/requirements-server.lock

FROM installer AS worker-packages
COPY requirements.lock /srv/
RUN /opt/boot/bin/uv pip sync --quiet --python /opt/trimtab/bin/python --require-hashes --compile-bytecode \
    /srv/requirements.lock

FROM interpreter AS server
COPY --from=server-packages /opt/trimtab /opt/trimtab
COPY trimtab /srv/code/trimtab
COPY stores /srv/code/stores
COPY serving /srv/code/serving
RUN python -m compileall -q /srv/code && install -d -o trimtab /srv/trimtab/state
# TRIMTAB_LEDGER_URL and TRIMTAB_ADMIN_KEYS have to be given; releases and telemetry are under the state folder.
ENV PYTHONPATH=/srv/code TRIMTAB_PROJECT=/srv/trimtab TRIMTAB_HOME=/srv/trimtab/state \
    TRIMTAB_HOST=0.0.0.0 TRIMTAB_SERVER_PORT=8000
WORKDIR /srv/trimtab
USER trimtab
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"TRIMTAB_SERVER_PORT\"]}/health', timeout=2)"]
ENTRYPOINT ["python", "-m", "serving"]

FROM interpreter AS worker
# DVC and lineage read the project's git.
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends git && rm -rf /var/lib/apt/lists/*
COPY --from=worker-packages /opt/trimtab /opt/trimtab
COPY requirements.lock pyproject.toml params.yaml /srv/code/
COPY trimtab /srv/code/trimtab
COPY stores /srv/code/stores
COPY tasks /srv/code/tasks
COPY flows /srv/code/flows
COPY deployments /srv/code/deployments
COPY serving /srv/code/serving
COPY sources /srv/code/sources
COPY cli /srv/code/cli
RUN python -m compileall -q /srv/code && install -d -o trimtab /srv/trimtab/project /srv/trimtab/state
# The project is mounted at /srv/trimtab/project; PREFECT_API_URL and the TRIMTAB_* addresses have to be given.
ENV PYTHONPATH=/srv/code TRIMTAB_PROJECT=/srv/trimtab/project TRIMTAB_HOME=/srv/trimtab/state
WORKDIR /srv/trimtab/project
USER trimtab
# Prefect knows whether the worker is alive: it polls.
HEALTHCHECK NONE
ENTRYPOINT ["python", "-m", "deployments.warm_worker"]
CMD ["--pool", "trimtab"]
