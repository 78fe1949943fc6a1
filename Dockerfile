# A node in a container: docker run --cap-add NET_ADMIN --device /dev/net/tun -v FILE:/etc/vxland/vxland.yaml IMAGE
ARG BASE_IMAGE=python:3.13-slim-trixie

FROM ${BASE_IMAGE} AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev python3-dev
COPY . /src
RUN python -m venv /opt/vxland && /opt/vxland/bin/pip install --no-cache-dir /src

FROM ${BASE_IMAGE}
COPY --from=build /opt/vxland /opt/vxland
ENV PATH=/opt/vxland/bin:$PATH
ENTRYPOINT ["vxland"]
CMD ["run"]
