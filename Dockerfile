# vxland for a node. As the DaemonSet of deploy/kube-vxland.yml, or by hand:
#   docker run --network host --cap-add NET_ADMIN --device /dev/net/tun -v FILE:/etc/vxland/vxland.yaml IMAGE
ARG BASE_IMAGE=python:3.13-slim-trixie

FROM ${BASE_IMAGE} AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev python3-dev
COPY . /src
RUN python -m venv /opt/vxland && /opt/vxland/bin/pip install --no-cache-dir /src

FROM ${BASE_IMAGE}
RUN apt-get update && apt-get install -y --no-install-recommends iptables nftables && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/vxland /opt/vxland
COPY deploy/bin/ /usr/local/bin/
ENV PATH=/opt/vxland/bin:$PATH
ENTRYPOINT ["vxland"]
CMD ["run"]
