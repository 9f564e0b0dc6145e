# Mayfly with its embedded default: messages in memory, keys in the volume /keys.
#
#     docker compose up            or
#     docker build -t mayfly . && docker run -p 127.0.0.1:8000:8000 -v mayfly-keys:/keys --read-only mayfly

FROM python:3.13.7-slim-trixie AS build
# Drivers of network databases, of postgresql, mysql and valkey, separated by spaces: --build-arg EXTRAS="postgresql valkey"
ARG EXTRAS=""
COPY requirements.txt requirements-postgresql.txt requirements-mysql.txt requirements-valkey.txt /build/
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir --disable-pip-version-check --only-binary :all: --require-hashes \
        -r /build/requirements.txt $(for extra in $EXTRAS; do echo "-r /build/requirements-$extra.txt"; done)

FROM python:3.13.7-slim-trixie
RUN useradd --system --user-group --uid 10001 --no-create-home --shell /usr/sbin/nologin mayfly \
    && install -d -o mayfly -g mayfly -m 0700 /keys /data
COPY --from=build /venv /venv
WORKDIR /app
COPY *.py ./
COPY access/ access/
COPY audit/ audit/
COPY fields/ fields/
COPY messages/ messages/
COPY storage/ storage/
COPY web/ web/
# Whatever umask they were checked out with.
RUN chmod -R a+rX /app
# The first start makes /keys/mayfly/key.json, outside the project's folder. 0.0.0.0 is the container's own: publish its port on purpose.
ENV PATH=/venv/bin:/usr/local/bin:/usr/bin:/bin \
    XDG_CONFIG_HOME=/keys \
    MAYFLY_HOST=0.0.0.0 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER mayfly
VOLUME /keys
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=8s --start-period=30s --start-interval=1s \
    CMD ["python", "-c", "import os, ssl, urllib.request; e = os.environ.get; s = 'https' if e('MAYFLY_TLS_CERTIFICATE') else 'http'; urllib.request.urlopen(f'{s}://127.0.0.1:{e(\"MAYFLY_PORT\", \"8000\")}/readyz', timeout=7, context=ssl._create_unverified_context())"]
CMD ["python", "server.py"]
