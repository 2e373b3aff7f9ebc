# The service alone: numpy and onnxruntime, neither torch nor onnx. Models are mounted at /artifacts.
#
# The base is named by its tag, which may stand for another image tomorrow. To pin it, look its digest up where you build
# (docker buildx imagetools inspect python:3.11-slim) and give it: --build-arg BASE=python:3.11-slim@sha256:...
# The packages are pinned by digests in requirements.txt.
ARG BASE=python:3.11-slim
FROM ${BASE} AS build

WORKDIR /src
RUN python -m venv /opt/venv
COPY . .
RUN /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.txt \
    && PIP_CONSTRAINT=constraints.txt /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps .


FROM ${BASE}

RUN groupadd --gid 10001 cellstream \
    && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin cellstream
COPY --from=build /opt/venv /opt/venv

# In a container the service has to listen on more than loopback, which it only does with API keys: without a key file at
# this path it says so and ends. (The path itself is no secret.)
# hadolint ignore=DL3064
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    CELLSTREAM_HOST=0.0.0.0 \
    CELLSTREAM_PORT=8000 \
    CELLSTREAM_ARTIFACTS=/artifacts \
    CELLSTREAM_API_KEY_FILE=/run/secrets/cellstream_keys

WORKDIR /
USER 10001:10001
EXPOSE 8000

HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['CELLSTREAM_PORT'] + '/livez', timeout=2)"]

ENTRYPOINT ["python", "-m", "service"]
