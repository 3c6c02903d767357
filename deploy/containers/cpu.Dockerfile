# Head, dispatchers, endpoint, grading: all that needs no GPU. From the checkout's root:
#   docker build -f deploy/containers/cpu.Dockerfile -t registry.example.com/moa-router:0.1.0-cpu .

# Empty, or @sha256:… of the very image that was tested. Before the first FROM: one that comes later is
# of the stage above it, and is empty in the next FROM.
ARG RAY_DIGEST=""

# Code is graded in bubblewrap 0.8; Ubuntu 22.04, which Ray's images may stand on, has 0.6. Debian's asks
# for glibc 2.34 and runs on both Ubuntus.
FROM debian:12.11-slim AS bubblewrap
# hadolint ignore=DL3008  # the archive keeps one version; the tag says of which Debian
RUN apt-get update \
    && apt-get install --yes --no-install-recommends bubblewrap \
    && rm -rf /var/lib/apt/lists/*

FROM rayproject/ray:2.60.0-py311-cpu${RAY_DIGEST}

# Compilers and the system's Python are for the code that is graded. Ray's image lets `ray` become root
# by sudo: ours does not.
USER 0
COPY --from=bubblewrap /usr/bin/bwrap /usr/local/bin/bwrap
# hadolint ignore=DL3008  # as above
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ libcap2 libselinux1 python3 \
    && rm -rf /var/lib/apt/lists/* \
    && rm -f /etc/sudoers \
    && usermod --groups "" ray \
    && install --directory --owner=1000 --group=100 /app

# A number, so that Kubernetes' runAsNonRoot can tell.
USER 1000
WORKDIR /app

# All versions and hashes are the lock's, so nothing is resolved and nothing else is fetched. The layer
# stays until the lock changes.
COPY --chown=1000:100 deploy/containers/cpu.lock ./
RUN python -m pip install --no-cache-dir --no-deps --require-hashes --requirement cpu.lock

COPY --chown=1000:100 pyproject.toml constraints.txt README.md LICENSE LICENCES.md ./
COPY --chown=1000:100 moa moa
COPY --chown=1000:100 jobs jobs
# The last line fails the build where the base image's own packages do not bear ours.
RUN python -m pip install --no-cache-dir --no-deps --no-build-isolation --editable . \
    && python -m compileall -q moa jobs \
    && python jobs/route_batch.py --help > /dev/null

# A cluster without a token takes jobs from whoever reaches it.
ENV RAY_AUTH_MODE=token \
    RAY_USAGE_STATS_ENABLED=0

# The node's Ray answers, and is of this version. 10 s: where nothing answers, the command waits for 40.
# Kubernetes has probes of its own and does not look at this.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 CMD ["ray", "health-check"]

ARG REVISION=unknown
LABEL org.opencontainers.image.title="moa-router" \
      org.opencontainers.image.description="Routes LLM queries to the model that is worth its price; no GPU" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="docker.io/rayproject/ray:2.60.0-py311-cpu"
