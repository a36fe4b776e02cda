# shellcheck shell=bash disable=SC2034
# Sourced by deploy/quickstart.sh, deploy/Containerfile and tests/run.sh: installs what is missing, from
# Debian's packages.
swinfleet_build_packages="g++ cmake ninja-build ccache pkg-config libdnnl-dev libhwy-dev
  libgoogle-glog-dev libyaml-cpp-dev libcli11-dev libopenmpi-dev openmpi-bin libgrpc++-dev
  protobuf-compiler protobuf-compiler-grpc libprotobuf-dev libsqlite3-dev libssl-dev openssl
  libmicrohttpd-dev libgnutls28-dev prometheus-cpp-dev libxxhash-dev nlohmann-json3-dev zlib1g-dev
  libvips-dev liburing-dev libgtest-dev libgmock-dev libbenchmark-dev dataset-fashion-mnist python3
  iproute2"
# What the coordinator is tested with: the Prometheus server and promtool, and a Slurm for the tests to
# start, which runs nothing by itself.
swinfleet_test_packages="prometheus slurmctld slurmd slurm-client munge"
# Where the CUDA toolkit is, the tests run kernels on fibers.
swinfleet_cuda_packages="libboost-context-dev"

# What the built programs need to run, and mpirun to start them on other hosts.
swinfleet_run_packages="libdnnl2 libgnutls30 libgomp1 libhwy1 libgoogle-glog0v6 libgrpc++1.51
  libmicrohttpd12 libopenmpi3 openmpi-bin libprometheus-cpp-core1.0 libprotobuf32 libsqlite3-0 libssl3
  liburing2 libvips42 libxxhash0 libyaml-cpp0.7 zlib1g openssh-client openssh-server"

# Whether the build finds a CUDA toolkit, where cmake/cuda.cmake looks for it.
swinfleet_has_cuda_toolkit() {
  command -v nvcc >/dev/null || [ -x "${CUDA_HOME:-}/bin/nvcc" ] || [ -x "${CUDA_PATH:-}/bin/nvcc" ] ||
    [ -x /usr/local/cuda/bin/nvcc ]
}

# swinfleet_install_for_build [PACKAGE...]: what building needs, and these.
swinfleet_install_for_build() {
  local packages
  read -r -d '' -a packages <<<"$swinfleet_build_packages" || true
  if swinfleet_has_cuda_toolkit; then packages+=("$swinfleet_cuda_packages"); fi
  swinfleet_install "${packages[@]}" "$@"
}

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
