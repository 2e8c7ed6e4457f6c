# The gateway as an image: `serve` by default, every other command as `docker run … python -m gateway …`.
# Needs no root and writes only below /data and /tmp, so run it with --read-only --tmpfs /tmp. docs/deploy/ has the commands.
# The tests run on this minor version of Python. To pin the exact image, append @sha256:… (docker buildx imagetools inspect).
ARG PYTHON=python:3.11.14-slim-bookworm

FROM ${PYTHON} AS build
COPY requirements.txt .
RUN python -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check -r requirements.txt

FROM ${PYTHON}
# A fixed number, because volumes and Kubernetes know accounts by number.
RUN useradd --system --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin gateway \
 && install -d -o gateway -g gateway -m 700 /data
COPY --from=build /opt/venv /opt/venv
WORKDIR /app
COPY gateway gateway
COPY templates templates
COPY schema.sql wsgi.py ./
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 GATEWAY_DATA=/data
RUN python -m compileall -q gateway
ENV PYTHONDONTWRITEBYTECODE=1
# Where a disk can only be mounted for root, build with RUN_AS=0: the start command then drops to 10001 (deploy/fly.toml, render.yaml).
ARG RUN_AS=10001:10001
USER ${RUN_AS}
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ.get('PORT', '8000') + '/healthz', timeout=2)"]
# No ENTRYPOINT: Fly.io, Render and Railway replace the command, and not all of them keep an entry point.
CMD ["python", "-m", "gateway", "serve", "--host", "0.0.0.0"]
