# shellcheck shell=bash
# Sourced by the benchmarks: what they need on this machine, and the peers, in a virtual environment.

# Debian's packages, and the programs in build/bin.
benchmark_programs() {
  . deploy/packages.sh
  # shellcheck disable=SC2086
  swinfleet_install $swinfleet_build_packages python3-venv
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
