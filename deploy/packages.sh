# shellcheck shell=bash disable=SC2034
# Sourced by deploy/quickstart.sh and tests/run.sh: installs what is missing, from Debian's packages.
swinfleet_build_packages="g++ cmake ninja-build ccache pkg-config libdnnl-dev libhwy-dev
  libgoogle-glog-dev libyaml-cpp-dev libcli11-dev libopenmpi-dev openmpi-bin libgrpc++-dev
  protobuf-compiler protobuf-compiler-grpc libprotobuf-dev libsqlite3-dev libssl-dev openssl
  libmicrohttpd-dev libgnutls28-dev prometheus-cpp-dev libxxhash-dev nlohmann-json3-dev zlib1g-dev
  libvips-dev liburing-dev libgtest-dev libgmock-dev libbenchmark-dev dataset-fashion-mnist python3
  iproute2"
# What the coordinator is tested with: the Prometheus server and promtool.
swinfleet_test_packages="prometheus"
# Where the CUDA toolkit is, the tests run kernels on fibers.
swinfleet_cuda_test_packages="libboost-context-dev"

# swinfleet_install PACKAGE...
swinfleet_install() {
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
      missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || {
      echo "these packages are missing, and neither root nor sudo is there to install them:" >&2
      echo "  ${missing[*]}" >&2
      return 1
    }
    as_root=(sudo)
  fi
  echo "installing ${missing[*]}"
  "${as_root[@]}" apt-get update -q
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -q -y --no-install-recommends "${missing[@]}"
}
