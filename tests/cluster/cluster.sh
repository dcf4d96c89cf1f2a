#!/usr/bin/env bash
# Starts and stops a Kubernetes of one node on this machine, in namespaces of its own; see README.md. Root only.
# Usage: cluster.sh run    in the foreground, until its standard input or itself ends; prints "ready"
#        cluster.sh up     in the background
#        cluster.sh down   stops it, and clears what an unclean end has left
#        cluster.sh reboot    the node loses power and starts again; the file lib/cluster/boots of the state counts
#        cluster.sh enter COMMAND...    runs a command on the node
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
bin=${STASH_FS_TOOLS:-/var/tmp/stash-fs-tools}/bin
state=/var/tmp/stash-fs-cluster
lock=/run/lock/stash-fs-cluster
link=stash-fs

[ "$(id -u)" = 0 ] || { echo "the cluster makes namespaces and mounts: run it as root" >&2; exit 1; }

until_true() { # SECONDS COMMAND...
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    [ $SECONDS -lt $deadline ] || return 1
    sleep 0.05 # a pause between two looks
  done
}

# One cluster on a machine. Who holds the lock is its owner; it is free when the owner has ended, however that was.
take_lock() { # SECONDS
  exec 9>>"$lock"
  flock -w "$1" 9 && echo $$ > "$lock"
}
take_lock_of_ended() { # the same, but waits for an owner that is about to end
  take_lock 1 || { [ "$(cat "$lock")" = ending ] && take_lock 60; }
}
owner() { # prints the owner's process id
  ! flock -n "$lock" true && cat "$lock"
}

groups_left() { # removes the node's control groups; true while there are any
  local root left=1
  while read -r root; do
    [ -d "$root/stash-fs-cluster" ] || continue
    find "$root/stash-fs-cluster" -depth -type d -exec rmdir {} + 2>/dev/null || left=0
  done < <(awk '/ - cgroup2? / { print $5 }' /proc/self/mountinfo)
  return $left
}
nothing_left() {
  ! groups_left && ! ip link show dev "$link" >/dev/null 2>&1 && rm -rf --one-file-system "$state" 2>/dev/null
}
sweep() {
  ip link delete "$link" 2>/dev/null || true
  # No mount of the node is to be seen from here, so that nothing but its own files is removed.
  until_true 120 nothing_left || { echo "something of the cluster is left: $state, link $link or control groups" >&2; return 1; }
}

unshared= reader=
stop() {
  trap '' INT TERM HUP
  echo ending > "$lock"
  [ -z "$reader" ] || kill "$reader" 2>/dev/null || true
  # With unshare ends the first process of the node, and with that all others, before it is gone.
  if [ -n "$unshared" ]; then
    kill -KILL "$unshared" 2>/dev/null || true
    wait "$unshared" 2>/dev/null || true
    until_true 120 test ! -e "/proc/$(cat "$state/pid" 2>/dev/null || echo none)" || echo "the node does not end" >&2
  fi
  sweep
}

run() {
  take_lock_of_ended || { echo "a cluster runs on this machine already (process $(cat "$lock")); \`make cluster-down\` stops it" >&2; exit 1; }
  trap stop EXIT
  trap 'exit 130' INT TERM HUP
  sweep
  mkdir -p "$state"
  while read -r root; do mkdir -p "$root/stash-fs-cluster"; done < <(awk '/ - cgroup2? / { print $5 }' /proc/self/mountinfo)
  for root in /sys/fs/cgroup/cpuset; do # version 1: a new group has no CPU and no memory of its own
    [ -d $root ] && for file in cpuset.cpus cpuset.mems; do cat $root/$file > $root/stash-fs-cluster/$file; done
  done
  setpriv --pdeathsig KILL unshare --mount --net --pid --uts --fork --kill-child --mount-proc \
    bash "$here/node.sh" "$state" "$bin" "$here" </dev/null 9>&- &
  unshared=$!
  until_true 60 grep -q . "/proc/$unshared/task/$unshared/children"
  tr -d ' ' < "/proc/$unshared/task/$unshared/children" > "$state/pid"
  ip link add "$link" type veth peer name eth0 netns "$(cat "$state/pid")"
  ip addr add 198.18.255.1/30 dev "$link"
  ip link set "$link" up
  ip route add 198.18.0.0/24 via 198.18.255.2
  ip route add 198.19.0.0/16 via 198.18.255.2
  if [ "${1:-}" = forever ]; then
    wait "$unshared" || exit 1
  fi
  exec 8<&0
  cat <&8 >/dev/null 9>&- &
  reader=$!
  wait -n -p ended "$unshared" "$reader" || true
  [ "$ended" != "$unshared" ] || exit 1
}

case ${1:-} in
  run) run "${2:-}" ;;
  up)
    log=$(mktemp)
    setsid "$0" run forever </dev/null >"$log" 2>&1 &
    until_true 300 eval 'grep -qx ready "$log" || ! kill -0 $! 2>/dev/null' || true
    grep -qx ready "$log" || { cat "$log"; rm "$log"; exit 1; } >&2
    rm "$log"
    echo "export KUBECONFIG=$state/lib/cluster/admin.conf PATH=$bin:\$PATH"
    ;;
  down)
    pid=$(owner) && [ "$pid" != ending ] && kill "$pid" || true
    take_lock 60 || { echo "the cluster (process $pid) does not end" >&2; exit 1; }
    sweep
    ;;
  reboot)
    kill -USR1 "$(cat "$state/pid")"
    ;;
  enter)
    shift
    exec nsenter --mount --net --pid --uts -t "$(cat "$state/pid")" -- "$@"
    ;;
  *)
    sed -n '2,/^set/{/^#/s/^# \?//p}' "$0" >&2
    exit 2
    ;;
esac
