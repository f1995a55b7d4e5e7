# syntax=docker/dockerfile:1
# One node of a cluster. `docker compose up` builds and runs three of it; see docs/runbook.md, "With compose".
#
# Both stages stand on the same image: the environment made in the first is copied into the second, and its
# interpreter must be there too. Where this base cannot be pulled, any image with Python 3.11+ and its venv
# module does: docker build --build-arg BASE_IMAGE=...; likewise PIP_INDEX_URL for another package index.
ARG BASE_IMAGE=docker.io/library/python:3.13-slim

FROM ${BASE_IMAGE} AS build
ARG PIP_INDEX_URL=https://pypi.org/simple
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_INDEX_URL=${PIP_INDEX_URL}
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY client client
COPY node node
# The wheel is built away from where it is installed: the image holds what users install, and no source tree.
RUN python3 -m venv /opt/build \
    && /opt/build/bin/python -m pip wheel --quiet --no-deps --wheel-dir /wheels . \
    && python3 -m venv /opt/mcr \
    && wheel="$(ls /wheels/*.whl)" \
    && /opt/mcr/bin/python -m pip install --quiet "${wheel}[node]" \
    && /opt/mcr/bin/python -m compileall -q /opt/mcr

FROM ${BASE_IMAGE}
COPY --from=build /opt/mcr /opt/mcr
# A named volume that is empty takes over the owner of the folder below it, so the user can write there.
# The number is fixed: folders of the host that are mounted instead are given to it by `chown 10001:10001`.
RUN groupadd --gid 10001 mcr \
    && useradd --uid 10001 --gid mcr --no-create-home --home-dir /var/lib/mcr --shell /usr/sbin/nologin mcr \
    && install -d -o mcr -g mcr -m 0750 /var/lib/mcr
ENV PATH=/opt/mcr/bin:${PATH}
USER mcr
WORKDIR /var/lib/mcr
VOLUME /var/lib/mcr
# 7101: clients and other nodes. 7180: /healthz, /readyz, /metrics.
EXPOSE 7101 7180
# /readyz says whether clients should come here; an HTTP error raises, so the exit status is 1. A node without a
# majority is healthy: starting it again would help nobody.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python3", "-c", "import urllib.request as web; web.urlopen('http://127.0.0.1:7180/readyz', timeout=4)"]
# The node ends in order by SIGTERM, which gives calls under way 8 s.
STOPSIGNAL SIGTERM
ENTRYPOINT ["mcr"]
CMD ["node", "start", "--help"]
