# vxland for a node, as deploy/kube-vxland.yml and compose.yaml run it; docs/containers.md has more. By hand:
#   docker build -t vxland .
#   docker run --network host --cap-drop ALL --cap-add NET_ADMIN --cap-add BPF --device /dev/net/tun \
#     -v /etc/vxland:/etc/vxland:ro -v /run/flannel:/run/flannel vxland
ARG BASE_IMAGE=python:3.13-slim-trixie
# A tag may name another image tomorrow: --build-arg BASE_DIGEST=sha256:... takes none but this one.
ARG BASE_DIGEST=

FROM ${BASE_IMAGE}${BASE_DIGEST:+@${BASE_DIGEST}} AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev python3-dev
# Wheels, and only those whose hashes are in the lock. Where a platform has no wheel of something, pip would build it with
# whatever the registry has today; --build-arg PIP_ONLY_BINARY=:none: allows it.
ARG PIP_ONLY_BINARY=:all:
COPY requirements-image.lock /src/
RUN python -m venv /opt/vxland \
    && /opt/vxland/bin/pip install --no-cache-dir --require-hashes -r /src/requirements-image.lock
COPY . /src
# What `vxland --version` shows: --build-arg COMMIT=$(git rev-parse HEAD)
ARG COMMIT=
# No debugging symbols: they would go to waste below. Nothing more is fetched. It has to compile: pip goes on without.
RUN VXLAND_COMMIT=$COMMIT CFLAGS=-g0 PIP_ONLY_BINARY=:none: \
       /opt/vxland/bin/pip install --no-cache-dir --no-index --no-deps --no-build-isolation /src \
    && /opt/vxland/bin/python -P -c 'from vxland.forwarding.pump import COMPILED; assert COMPILED' \
    && /opt/vxland/bin/pip uninstall -y setuptools pip
# The interpreted gear imports Cython's shadow module, nobody its compiler. C sources and symbols are for debugging.
RUN cd /opt/vxland/lib/python3*/site-packages \
    && rm -rf Cython/Compiler Cython/Debugger Cython/Tests \
    && find . \( -name '*.c' -o -name '*.pyx' \) -delete \
    && find . -name '*.so' -exec strip --strip-unneeded {} +

FROM ${BASE_IMAGE}${BASE_DIGEST:+@${BASE_DIGEST}} AS node
RUN apt-get update && apt-get install -y --no-install-recommends iptables libbpf1 nftables \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
COPY --from=build /opt/vxland /opt/vxland
COPY deploy/bin/ /usr/local/bin/
ENV PATH=/opt/vxland/bin:$PATH
# Through the control socket, wherever metrics.listen is. Docker only: Kubernetes has probes of its own.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["vxlandctl", "status", "--ready"]
ENTRYPOINT ["vxland"]
CMD ["run"]

# A pod of compose.yaml, and its benchmark: with the tools to measure by.
FROM node AS pod
RUN apt-get update && apt-get install -y --no-install-recommends iperf3 iproute2 iputils-ping \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
HEALTHCHECK --interval=5s CMD ["sh", "-c", "ss -Hltn sport = 5201 | grep -q ."]

# What is built where no target is named.
FROM node
