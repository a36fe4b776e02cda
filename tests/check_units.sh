#!/usr/bin/env bash
# systemd's own word on deploy/systemd/, with the built programs where the units expect the installed
# ones.
#   tests/check_units.sh FOLDER_OF_PROGRAMS
set -euo pipefail
cd "$(dirname "$0")/.."
command -v systemd-analyze >/dev/null || { echo "skipped: there is no systemd-analyze"; exit 77; }
units=$(mktemp -d)
trap 'rm -rf "$units"' EXIT
for unit in deploy/systemd/*.service; do
  sed "s|/usr/bin/swinfleet|$1/swinfleet|g" "$unit" >"$units/$(basename "$unit")"
done
mv "$units/swinfleet-fleet@.service" "$units/swinfleet-fleet@lab.service"
# It warns with exit code 0 of settings that it does not know.
output=$(systemd-analyze verify "$units"/*.service 2>&1) || { echo "$output"; exit 1; }
[ -z "$output" ] || { echo "$output"; exit 1; }
