# vxland for a node, as deploy/kube-vxland.yml and compose.yaml run it; docs/containers.md has more. By hand:
#   docker build -t vxland .
#   docker run --network host --cap-drop ALL --cap-add NET_ADMIN --cap-add BPF --device /dev/net/tun \
#     -v /etc/vxland:/etc/vxland:ro -v /run/flannel:/run/flannel vxland
# For several architectures: docker-bake.hcl. Only apt runs for the target; compiling, choosing wheels, stripping and byte
# code are work of the stages on BUILDPLATFORM. The builder of Docker before 23 does not set that name: it builds for its own
# machine.
ARG BASE_IMAGE=debian:trixie-slim
# A tag may name another image tomorrow: --build-arg BASE_DIGEST=sha256:... takes none but this one.
ARG BASE_DIGEST=

FROM --platform=${BUILDPLATFORM:-linux} ${BASE_IMAGE}${BASE_DIGEST:+@${BASE_DIGEST}} AS compiler
ARG TARGETARCH
# The target's compiler and headers: a native or a cross compiler, under the same names. The settings of this Python are
# replaced by those of the target's.
RUN case ${TARGETARCH:=$(dpkg --print-architecture)} in \
      amd64) arch=amd64 gnu=x86_64-linux-gnu platform=linux-x86_64 ;; \
      arm64) arch=arm64 gnu=aarch64-linux-gnu platform=linux-aarch64 ;; \
      arm | armhf) arch=armhf gnu=arm-linux-gnueabihf platform=linux-armv7l ;; \
      *) echo "$TARGETARCH: no recipe; it is one of amd64, arm64, arm" >&2; exit 1 ;; \
    esac \
    && dpkg --add-architecture $arch && apt-get update \
    && apt-get install -y --no-install-recommends \
       python3-venv binutils binutils-$(echo $gnu | tr _ -) gcc-$(echo $gnu | tr _ -) libc6-dev:$arch libpython3-dev:$arch \
    && printf 'export CC=%s-gcc LDSHARED="%s-gcc -shared" STRIP=%s-strip _PYTHON_HOST_PLATFORM=%s _PYTHON_SYSCONFIGDATA_NAME=%s\n' \
       $gnu $gnu $gnu $platform _sysconfigdata__$gnu >/target
COPY requirements-image.lock /src/
# What builds is in the lock too, with its hashes: pip fetches nothing else.
RUN sed -n '/^\(cython\|setuptools\)==/,/^    # via/p' /src/requirements-image.lock >/build.lock \
    && /usr/bin/python3 -m venv /opt/build \
    && /opt/build/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r /build.lock

FROM compiler AS wheel
COPY . /src
# What `vxland --version` shows: --build-arg COMMIT=$(git rev-parse HEAD)
ARG COMMIT=
# It has to compile: setuptools goes on without.
RUN . /target && cd /src && VXLAND_COMMIT=$COMMIT /opt/build/bin/python -P -c \
       'from setuptools import build_meta; build_meta.build_wheel("/dist")' \
    && /opt/build/bin/python -P -m zipfile -l /dist/*.whl | grep -q '/forwarding/pump\..*\.so'

# Wheels alone, for the target and its glibc (2.41 in Debian 13): pip unpacks them, and runs nothing. PyYAML has none for
# 32-bit ARM and is built from its source there: without its optional C part, so without a compiler. uvloop has none either,
# and its condition in the lock asks for the machine's name: that of 64 bits is hidden by linux32.
FROM compiler AS packages
RUN /usr/bin/python3 -m venv /opt/vxland
RUN . /target && machine=${_PYTHON_HOST_PLATFORM#linux-} && cd /opt/vxland/lib/python3*/site-packages \
    && if [ $machine = armv7l ]; then as=linux32 source="--no-build-isolation --no-binary pyyaml"; fi \
    && PYYAML_FORCE_LIBYAML=0 $as /opt/build/bin/pip install --no-cache-dir --no-compile --require-hashes --only-binary :all: \
       $source --no-deps --target . --platform manylinux2014_$machine \
       $(seq -f "--platform manylinux_2_%g_$machine" 41 -1 17) -r /src/requirements-image.lock
COPY --from=wheel /dist /dist
RUN . /target && /opt/vxland/bin/pip install --no-cache-dir --no-compile --no-index --no-deps /dist/*.whl

# What no container runs is left out: installers and what they noted, Cython's compiler, C sources, and rich's colours for
# source code. Byte code is kept: on a read-only root each check of the container's health would compile it again. There
# are no times in it, so that it is the same in each build, and is not compared with its source at each start.
FROM packages AS files
COPY deploy/bin/ /opt/vxland/bin/
ARG SOURCE_DATE_EPOCH=0
RUN . /target && unset _PYTHON_SYSCONFIGDATA_NAME && cd /opt/vxland \
    && rm -rf lib/sys* share && find bin ! -type d ! -name "python*" ! -name "vxland*" -delete \
    && cd lib/python3*/site-packages \
    && rm -rf _distutils_hack bin distutils-precedence.pth pip pip-* pkg_resources pygments pygments-* pyximport setuptools \
       setuptools-* *.dist-info/RECORD *.dist-info/INSTALLER *.dist-info/REQUESTED *.dist-info/direct_url.json \
    && find Cython -mindepth 1 -maxdepth 1 ! -name __init__.py ! -name Shadow.py -exec rm -rf {} + \
    && find . \( -name '*.c' -o -name '*.h' -o -name '*.pyi' -o -name '*.pyx' \) ! -path '*/fastpath/*' -delete \
    && find . -name '*.so' -exec $STRIP --strip-unneeded {} + \
    && find . -name __pycache__ -prune -exec rm -rf {} + \
    && /usr/bin/python3 -m compileall -q --invalidation-mode unchecked-hash "$PWD" \
    && find /opt/vxland -exec touch -hd @$SOURCE_DATE_EPOCH {} +

FROM ${BASE_IMAGE}${BASE_DIGEST:+@${BASE_DIGEST}} AS node
# Logs, lists and caches of apt and ldconfig differ in each build, and nobody reads them.
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates iptables libbpf1 nftables python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/*/* /var/log/*
COPY --from=files /opt/vxland /opt/vxland
ENV PATH=/opt/vxland/bin:$PATH
# Through the control socket, wherever metrics.listen is. Docker only: Kubernetes has probes of its own.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["vxlandctl", "status", "--ready"]
ENTRYPOINT ["vxland"]
CMD ["run"]

# A pod of compose.yaml, and its benchmark: with the tools to measure by.
FROM node AS pod
RUN apt-get update && apt-get install -y --no-install-recommends iperf3 iproute2 iputils-ping \
    && rm -rf /var/lib/apt/lists/* /var/cache/*/* /var/log/*
HEALTHCHECK --interval=5s CMD ["sh", "-c", "ss -Hltn sport = 5201 | grep -q ."]

# What is built where no target is named.
FROM node
