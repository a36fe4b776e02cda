#!/usr/bin/env bash
# No text of a job or peer reaches a shell, because programs are started without one: fails on a
# function that starts one. Two places may: a limit is set by constant text, with the program and its
# arguments behind it as they are (coordinator/child_process.cc); and `swinfleet bench memory` quotes
# the command of who types it.
set -euo pipefail
cd "$(dirname "$0")/.."

found=$(grep -rnE '\b(system|popen|wordexp|execlp|execvp|execvpe)\(|"(/bin/)?(ba)?sh"' \
  coordinator worker distributed core kernels proto --include='*.h' --include='*.cc' |
  grep -vE '^coordinator/child_process\.cc:[0-9]+: +command = \{"/bin/sh", "-c",$' |
  grep -vE '^worker/bench/memory\.cc:[0-9]+: +FILE\* pipe = popen\(line\.c_str\(\), "r"\);$' || true)
if [ -n "$found" ]; then
  echo "$found" >&2
  echo "programs are started without a shell: posix_spawn, execv" >&2
  exit 1
fi
