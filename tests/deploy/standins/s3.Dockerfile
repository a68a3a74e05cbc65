# moto in the place of SeaweedFS: the same command, port, user and health check.
ARG BASE
FROM ${BASE}
RUN apt-get update && apt-get install --yes --no-install-recommends wget
RUN --mount=type=cache,target=/root/.cache/pip python -m pip install 'moto[server]>=5'
COPY --chmod=0555 weed.py /usr/bin/weed
