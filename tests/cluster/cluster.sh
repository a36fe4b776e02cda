#!/usr/bin/env bash
# A cluster on this machine: hosts node0, node1, ... are network namespaces, each behind a link of a
# chosen bandwidth to one bridge. The machine itself is the head node, at 198.18.77.254 on the
# bridge: mpirun and the coordinator run there, ranks on the hosts.
#
#   cluster.sh check                       exits 77 and says why if this machine can't have one
#   cluster.sh up N [--rate RATE] [--owner PID]
#                                          N hosts; RATE, each way, is tc's, as in 1gbit (without:
#                                          as fast as it goes). Waits while another cluster is up.
#   cluster.sh run -- COMMAND...           on the head node; an mpirun there uses the hosts, one
#                                          rank each, and nothing but TCP over their links
#   cluster.sh exec HOST -- COMMAND...     on a host
#   cluster.sh link HOST down|up|RATE      cuts a host's link, mends it, or sets its bandwidth
#   cluster.sh down                        ends everything that runs on the hosts, and the hosts
#
# There is one cluster at a time. It lives no longer than its owner (the process that called `up`,
# unless --owner names another), however that one ends; what a killed keeper leaves behind is
# removed by the next `up` or `down`. Needs root, with the right to make namespaces and links.
set -euo pipefail

state=/run/swinfleet-cluster
network=198.18.77
bridge=swf-bridge
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

fail() {
  echo "cluster.sh: $*" >&2
  exit 1
}
usage() {
  sed -n '2,21s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
  exit 2
}

# Of a host's number.
namespace() { echo "swinfleet-node$1"; }
link() { echo "swf-node$1"; }

# The number of a host of the cluster that is up: node2 -> 2.
number_of() {
  local number=${1#node}
  if [[ $1 != node* || ! -e /run/netns/$(namespace "$number") ]]; then fail "there is no host $1"; fi
  echo "$number"
}

check() {
  local tool probe=swinfleet-probe$$
  for tool in ip tc unshare mpirun flock; do
    command -v "$tool" >/dev/null || { echo "$tool is missing" && return 77; }
  done
  [ "$(id -u)" -eq 0 ] || { echo "it takes root to make network namespaces" && return 77; }
  if ! ip netns add "$probe" 2>/dev/null; then
    echo "network namespaces can't be made here (CAP_SYS_ADMIN is lacking)"
    return 77
  fi
  local answer=0
  ip -n "$probe" link add probe0 type veth peer name probe1 2>/dev/null &&
    ip -n "$probe" link add probe2 type bridge 2>/dev/null &&
    ip netns exec "$probe" tc qdisc add dev probe0 root tbf rate 1gbit burst 128kb latency 100ms \
      2>/dev/null || answer=77
  ip netns delete "$probe"
  [ $answer -eq 0 ] || echo "links can't be made or limited here (CAP_NET_ADMIN, or the kernel)"
  return $answer
}

# Removes a cluster, whoever has made it and however far that came. Called with the lock held.
clean() {
  local name pids tries inodes=()
  rm -f "$state/hosts" "$state/keeper"
  for name in $(ip netns list | sed -n 's/^\(swinfleet-node[0-9]*\).*/\1/p'); do
    for ((tries = 0; tries < 200; ++tries)); do
      pids=$(ip netns pids "$name") || break
      [ -n "$pids" ] || break
      # shellcheck disable=SC2086
      kill -KILL $pids 2>/dev/null || true
      sleep 0.02
    done
    inodes+=("$(stat -Lc %i "/run/netns/$name" 2>/dev/null || echo 0)")
    ip netns delete "$name" || true
  done
  # What was about to enter a host when its name went is in there now.
  for ((tries = 0; tries < 4 && ${#inodes[@]} > 0; ++tries)); do
    sleep 0.05
    for name in "${inodes[@]}"; do
      pids=$(find /proc -maxdepth 3 -path '/proc/[0-9]*/ns/net' -lname "net:\\[$name\\]" \
        -printf '%P\n' 2>/dev/null | cut -d / -f 1) || true
      # shellcheck disable=SC2086
      [ -z "$pids" ] || kill -KILL $pids 2>/dev/null || true
    done
  done
  # Namespaces go when the kernel finds the time, and links with them; some may have gone already.
  for name in /sys/class/net/swf-*; do
    ip link delete "${name##*/}" 2>/dev/null || true
  done
}

set_rate() {
  local limit=(root tbf rate "$2" burst 128kb latency 100ms)
  if ! tc qdisc replace dev "$(link "$1")" "${limit[@]}" ||
    ! ip netns exec "$(namespace "$1")" tc qdisc replace dev eth0 "${limit[@]}"; then
    fail "the bandwidth $2 can't be set"
  fi
}

add_host() {
  local name
  name=$(namespace "$1")
  ip netns add "$name"
  ip -n "$name" link set lo up
  ip link add "$(link "$1")" type veth peer name eth0 netns "$name"
  ip link set "$(link "$1")" master "$bridge" up
  ip -n "$name" address add "$network.$(($1 + 1))/24" dev eth0
  ip -n "$name" link set eth0 up
  [ -z "$2" ] || set_rate "$1" "$2"
  echo "$network.$(($1 + 1)) slots=1" >>"$state/hosts"
}

# The process behind a cluster: makes it, says so, and removes it when told to or when the owner is
# gone. It holds the lock meanwhile.
keep() {
  local count=$1 rate=$2 owner=$3 i
  exec 9>>"$state/lock"
  flock -w 600 9 || fail "another cluster has been up for ten minutes"
  trap 'exit 0' TERM INT HUP
  trap clean EXIT
  clean
  echo $$ >"$state/keeper"
  ip link add "$bridge" type bridge
  ip address add "$network.254/24" dev "$bridge"
  ip link set "$bridge" up
  for ((i = 0; i < count; ++i)); do add_host "$i" "$rate"; done
  echo ready
  exec >/dev/null 2>&1
  tail --pid="$owner" -f /dev/null 9>&- &
  # A signal ends the waiting, which the child must not outlive.
  trap 'kill $(jobs -p) 2>/dev/null; exit 0' TERM INT HUP
  wait || true
}

up() {
  local count=${1:-} rate='' owner=$PPID answer=''
  [[ $count =~ ^[1-9][0-9]?$ ]] || usage
  shift
  while [ $# -gt 0 ]; do
    case "$1" in
      --rate) rate=${2:?} ;;
      --owner) owner=${2:?} ;;
      *) usage ;;
    esac
    shift 2
  done
  local reason
  reason=$(check) || fail "$reason"
  mkdir -p "$state"
  # In a session and an environment of its own: what is done to the caller's group, or to all that
  # has its environment, does not reach the keeper.
  exec 3< <(exec env -i PATH="$PATH" setsid "${BASH_SOURCE[0]}" \
    keep "$count" "$rate" "$owner" </dev/null)
  read -r answer <&3 || true
  [ "$answer" = ready ] || fail "the cluster could not be made"
}

down() {
  mkdir -p "$state"
  exec 9>>"$state/lock"
  if ! flock -n 9; then
    [ ! -s "$state/keeper" ] || kill -TERM "$(cat "$state/keeper")" 2>/dev/null || true
    flock -w 60 9 || fail "the cluster's keeper does not end"
  fi
  clean
}

run() {
  [ -s "$state/hosts" ] || fail "no cluster is up"
  # Hosts have this machine's cores each, so ranks must not be bound to the first of them.
  export OMPI_MCA_orte_default_hostfile=$state/hosts OMPI_MCA_plm=rsh \
    OMPI_MCA_plm_rsh_agent=$here/rsh.sh OMPI_MCA_plm_rsh_no_tree_spawn=1 \
    OMPI_MCA_pml=ob1 OMPI_MCA_btl=tcp,self OMPI_MCA_btl_tcp_if_include=$network.0/24 \
    OMPI_MCA_oob_tcp_if_include=$network.0/24 OMPI_MCA_hwloc_base_binding_policy=none \
    OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  exec "$@"
}

# A host has a name of its own: Open MPI and the coordinator tell hosts apart by it.
exec_on() {
  local number
  number=$(number_of "$1")
  shift
  # shellcheck disable=SC2016
  exec ip netns exec "$(namespace "$number")" \
    unshare --uts sh -c 'hostname "$1" && shift && exec "$@"' sh "node$number" "$@"
}

set_link() {
  local number
  number=$(number_of "$1")
  case "$2" in
    down | up) ip link set "$(link "$number")" "$2" ;;
    *) set_rate "$number" "$2" ;;
  esac
}

command=${1:-}
[ $# -eq 0 ] || shift
case "$command" in
  check) check ;;
  up) up "$@" ;;
  run)
    if [[ $# -lt 2 || $1 != -- ]]; then usage; fi
    run "${@:2}"
    ;;
  exec)
    if [[ $# -lt 3 || $2 != -- ]]; then usage; fi
    exec_on "$1" "${@:3}"
    ;;
  link)
    if [ $# -ne 2 ]; then usage; fi
    set_link "$@"
    ;;
  down) down ;;
  keep) keep "$@" ;;
  *) usage ;;
esac
