# The image, by buildx:
#   docker buildx bake --file docker-bake.hcl            for this machine, into its engine
#   docker buildx bake --file docker-bake.hcl release    for every architecture; PUSH=true publishes it
# Without --file, services of compose.yaml would be targets too.
# Variables are taken from the environment. tools/release.py sets VERSION, COMMIT and SOURCE_DATE_EPOCH.
#
# There is no cache from elsewhere. A release should have Debian's packages of today, security updates too, and a cached
# layer has those of the day it was made. What takes long is compiled anew for each commit anyway.

variable "IMAGE" { default = "ghcr.io/vxland/vxland" }
variable "VERSION" { default = "dev" }
variable "COMMIT" { default = "" } # shown by `vxland --version`
variable "BASE_IMAGE" { default = "debian:trixie-slim" }
variable "BASE_DIGEST" { default = "" } # sha256:... of the index, which has all architectures
variable "SOURCE_DATE_EPOCH" { default = "" } # the commit's time; the time of the build otherwise
variable "PUSH" { default = "false" }

group "default" {
  targets = ["node"]
}

target "node" {
  target = "node"
  tags   = ["${IMAGE}:${VERSION}"]
  args = {
    BASE_IMAGE        = BASE_IMAGE
    BASE_DIGEST       = BASE_DIGEST
    COMMIT            = COMMIT
    SOURCE_DATE_EPOCH = SOURCE_DATE_EPOCH != "" ? SOURCE_DATE_EPOCH : null
  }
  output = ["type=docker"]
}

# It needs a builder of its own (docker buildx create --use) or an engine that keeps images as containerd does, and qemu for
# the other architectures, where apt runs for some minutes.
# Provenance in full names the commit, the arguments and the digest of the base: all are public, and it is what a build
# is repeated from. The SBOM lists Debian's and Python's packages, for scanners that cannot unpack images.
target "release" {
  inherits  = ["node"]
  platforms = ["linux/amd64", "linux/arm64", "linux/arm/v7"]
  attest    = ["type=provenance,mode=max", "type=sbom"]
  output    = ["type=image,push=${PUSH},rewrite-timestamp=true"]
}
