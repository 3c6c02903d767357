# Router replicas with a language model, and fine-tuning: vLLM and torch on CUDA 13.
#   docker build -f deploy/containers/gpu.Dockerfile -t registry.example.com/moa-router:0.1.0-gpu .

# Empty, or @sha256:… of the very image that was tested.
ARG RAY_DIGEST=""
# CUDA 13.0, as torch 2.13's own libraries are. Nodes need a driver of 580 or newer. The compiler that
# Triton needs is in this image.
FROM rayproject/ray:2.60.0-py311-cu130${RAY_DIGEST}

# Ray's image lets `ray` become root by sudo: ours does not.
USER 0
RUN rm -f /etc/sudoers \
    && usermod --groups "" ray \
    && install --directory --owner=1000 --group=100 /app

# A number, so that Kubernetes' runAsNonRoot can tell.
USER 1000
WORKDIR /app

# All versions and hashes are the lock's, so nothing is resolved and nothing else is fetched. The layer
# stays until the lock changes.
COPY --chown=1000:100 deploy/containers/gpu.lock ./
RUN python -m pip install --no-cache-dir --no-deps --require-hashes --requirement gpu.lock

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
      org.opencontainers.image.description="Routes LLM queries to the model that is worth its price; with vLLM" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="docker.io/rayproject/ray:2.60.0-py311-cu130"
