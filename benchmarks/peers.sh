# shellcheck shell=bash
# Sourced by the benchmarks: what they need on this machine, and the peers, in a virtual environment.

# benchmark_arguments HELP ARGUMENT...: --venv FOLDER into $venv (build/peers if it isn't there), all
# others into ${arguments[@]}; --help prints HELP and ends.
benchmark_arguments() {
  local help=$1
  shift
  venv=build/peers
  arguments=()
  while [ $# -gt 0 ]; do
    case "$1" in
      --venv) venv=${2:?--venv needs a folder}; shift ;;
      -h|--help) printf '%s\n' "$help"; exit 0 ;;
      *) arguments+=("$1") ;;
    esac
    shift
  done
}

# Debian's packages, and the programs in build/bin.
benchmark_programs() {
  . deploy/packages.sh
  swinfleet_install_for_build python3-venv
  cmake --preset release >/dev/null
  cmake --build build --target programs >&2
}

# benchmark_peers FOLDER PACKAGE...: a virtual environment with these Python packages, whose names
# are also those of their modules.
benchmark_peers() {
  local venv=$1 module missing=()
  shift
  [ -x "$venv/bin/python" ] || python3 -m venv "$venv"
  for module in "$@"; do
    "$venv/bin/python" -c "import importlib.util, sys; sys.exit(not importlib.util.find_spec('$module'))" ||
      missing+=("$module")
  done
  [ ${#missing[@]} -eq 0 ] || "$venv/bin/python" -m pip install --quiet "${missing[@]}"
}
