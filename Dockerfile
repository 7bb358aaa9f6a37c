# The image of the product: `docker build -t llm-auto-optimizer .`, then `docker run -p 8080:8080 llm-auto-optimizer`.
# Its install steps are deploy/install.sh, which a test runs without Docker.
#
# Every Python package is pinned with its hash (requirements/). The base is pinned by its tag only: a digest has to come
# from a registry, and none is reachable from where this file is made. To pin it too: --build-arg PYTHON_IMAGE=...@sha256:...
ARG PYTHON_IMAGE=python:3.11.13-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
WORKDIR /source
COPY pyproject.toml README.md ./
COPY requirements/ requirements/
COPY deploy/install.sh deploy/install.sh
COPY deploy/packaging/ deploy/packaging/
COPY ui/ ui/
COPY policies/ policies/
COPY optimizer/ optimizer/
COPY proxy/ proxy/
RUN sh deploy/install.sh /source /opt/llm-optimizer

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="llm-auto-optimizer" \
      org.opencontainers.image.description="An OpenAI-compatible proxy that optimizes inline"
RUN useradd --system --uid 10001 --home-dir /var/lib/llm-optimizer --create-home llm-optimizer \
    && chmod 700 /var/lib/llm-optimizer
COPY --from=build /opt/llm-optimizer /opt/llm-optimizer
# Bytecode was compiled at the installation; at run time the root may be read-only.
ENV PATH=/opt/llm-optimizer/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 SERVER_HOST=0.0.0.0
USER 10001
# The state is ./state, for `serve` and for `docker exec ... llm-optimizer routes`. There is no VOLUME: an anonymous one
# would outlive its container unseen. Mount one here to keep what is learned; on a read-only root without one
# everything is in memory, and says so.
WORKDIR /var/lib/llm-optimizer
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ.get('SERVER_PORT', '8080') + '/health/ready', timeout=2)"]
ENTRYPOINT ["llm-optimizer"]
CMD ["serve"]
