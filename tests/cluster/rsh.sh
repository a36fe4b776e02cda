#!/usr/bin/env bash
# What mpirun starts its daemons with on the hosts of cluster.sh, in place of ssh:
#   rsh.sh ADDRESS COMMAND...
# As with ssh, a host whose link is cut can't be reached, and the words of the command are joined
# and read by a shell.
set -euo pipefail
number=$((${1##*.} - 1))
shift
if [ "$(cat "/sys/class/net/swf-node$number/operstate")" = down ]; then
  echo "rsh.sh: there is no route to node$number" >&2
  exit 255
fi
exec "$(dirname "$0")/cluster.sh" exec "node$number" -- sh -c "$*"
