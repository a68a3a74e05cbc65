# Debian's Postgres, in the place of the official image: the same variables, user and volume.
ARG BASE
FROM ${BASE}
RUN apt-get update \
    && apt-get install --yes --no-install-recommends postgresql \
    && ln -s /usr/lib/postgresql/*/bin/* /usr/local/bin/ \
    && install --directory --owner=postgres --group=postgres /var/lib/postgresql /run/postgresql
COPY --chmod=0555 postgres.sh /usr/local/bin/start
CMD ["start"]
