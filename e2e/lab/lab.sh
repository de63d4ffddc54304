#!/bin/bash
# lab.sh - several "servers" on one machine, each with its own Docker Engine.
#
# A node is a set of Linux namespaces (net, mount, pid, uts) held by one init process:
# its own address on the lab's bridge, hostname, process table, /run, /etc/docker,
# /var/lib/docker and /etc/hosts. Everything else of the file system is the machine's.
# Inside a node the socket is the usual /run/docker.sock; from outside it is
# $LAB/<node>/run/docker.sock. For nodes that are a fleet already there is fleet.sh beside this.
#
#   lab.sh up [N]            bridge, registry mirror, N nodes (3): n1..nN at 10.77.0.11..
#   lab.sh down              kill everything this script started, remove links and cgroups
#   lab.sh purge             down, then delete the nodes' data
#   lab.sh status            one line a node: address, pid, engine, containers, memory
#   lab.sh exec nK CMD...    run CMD inside the node     (lab.sh exec n2 docker ps)
#   lab.sh docker nK ARGS    the docker client on the machine, talking to the node
#   lab.sh service nK NAME CMD...   run CMD as a supervised service of the node: again when it ends, and when the node boots
#                                   (then without what this call had in its environment)
#   lab.sh service-kill nK NAME     kill -9 of the program; its supervisor starts it again
#   lab.sh service-stop nK NAME     end it, and do not start it again
#   lab.sh cut nK | heal nK         pull / plug the network cable
#   lab.sh loss nK P                drop this share (0.3) of the node's packets each way; 0 ends it
#   lab.sh part nA nB | unpart nA nB   drop packets between two nodes only
#   lab.sh kill-engine nK | start-engine nK     kill -9 dockerd / start it again
#   lab.sh crash nK | boot nK       power off (kill -9 of the node's init) / power on
#   lab.sh push IMAGE...     images of the machine's own engine -> the mirror (nginx:latest goes to library/nginx)
#   lab.sh golden IMAGE...   load images of the machine's own engine once (into a throw-away node n99) and keep the
#                            result: every NEW node of this lab then starts with them, hard-linked
#
# Two kinds of node. Plain (above), or, with NODE_ROOT=<folder of a Debian file tree with systemd,
# docker.io, openssh-server>, a server of its own: own root (overlay over that folder), systemd as
# pid 1, docker.service and ssh.service; its socket from outside is /proc/<init pid>/root/run/docker.sock,
# and `service` makes a transient unit with Restart=always. lab.sh rootfs IMAGE fills ./rootfs from an image.
#
# Environment: LAB_ID (77; another number, 1-254, is another lab beside it: network 10.<LAB_ID>.0.0/24, folders and names of its
# own), NODE_ROOT, SSH_KEY (a .pub file for root of systemd nodes), LAB (a folder for the nodes), REGISTRY_DATA, GOLDEN,
# ENGINE_PATH (directory put first in PATH, to run another engine version), ENGINE_FLAGS (more dockerd flags).
set -euo pipefail
SELF=$(readlink -f "$0")
LAB_ID=${LAB_ID:-77}
STATE=${LAB_STATE:-${TMPDIR:-/tmp}/nmlab$LAB_ID} # nothing is kept beside this script
export LAB=${LAB:-$STATE/nodes}
REGISTRY_DATA=${REGISTRY_DATA:-$STATE/registry}
GOLDEN=${GOLDEN:-${TMPDIR:-/tmp}/nmlab-images} # of all labs, a folder for each list of images: a cache, which may go at any time
NET=10.$LAB_ID.0
GW=$NET.1
REG=$GW:5000
BR=labbr$LAB_ID
CG_ROOT=lab$LAB_ID
addr() { echo "$NET.$((10 + ${1#n}))"; }
sock() { if [ -e "$LAB"/"$1/systemd" ]; then echo "/proc/$(init_pid "$1")/root/run/docker.sock"; else echo "$LAB"/"$1/run/docker.sock"; fi; }
nodes() { find "$LAB" -mindepth 1 -maxdepth 1 -name 'n[0-9]*' -printf '%f\n' 2>/dev/null | sort -V; }
init_pid() { cat "$LAB/$1/init.pid" 2>/dev/null || true; }
alive() {
  local p
  p=$(init_pid "$1")
  [ -n "$p" ] && kill -0 "$p" 2>/dev/null
}
wire() { echo "lab$LAB_ID-$1"; } # the machine's end of the node's cable
inside() {
  local n=$1 p
  shift
  p=$(init_pid "$n")
  if [ -e "$LAB"/"$n/systemd" ]; then
    nsenter -t "$p" -m -u -n -p -i -C -r -w -- env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM="${TERM:-dumb}" "$@"
  else nsenter -t "$p" -m -u -n -p -- "$@"; fi
}
die() {
  echo "lab: $*" >&2
  exit 1
}

bridge_up() {
  if [ "$(cat /proc/sys/net/ipv4/ip_forward)" != 1 ]; then
    echo 1 >/proc/sys/net/ipv4/ip_forward
    touch "$STATE/forwarding" # as it was, once the last node is gone
  fi
  if ! ip link show "$BR" >/dev/null 2>&1; then
    ip link add "$BR" type bridge
    ip addr add "$GW/24" dev "$BR"
    ip link set "$BR" up
  fi
  # The machine's own dockerd sets FORWARD to DROP, and bridge-nf sends bridged frames through it.
  iptables -w -C FORWARD -i "$BR" -j ACCEPT 2>/dev/null || iptables -w -I FORWARD -i "$BR" -j ACCEPT
  iptables -w -C FORWARD -o "$BR" -j ACCEPT 2>/dev/null || iptables -w -I FORWARD -o "$BR" -j ACCEPT
  iptables -w -t nat -C POSTROUTING -s "$NET.0/24" ! -o "$BR" -j MASQUERADE 2>/dev/null ||
    iptables -w -t nat -A POSTROUTING -s "$NET.0/24" ! -o "$BR" -j MASQUERADE
}
bridge_down() {
  iptables -w -D FORWARD -i "$BR" -j ACCEPT 2>/dev/null || true
  iptables -w -D FORWARD -o "$BR" -j ACCEPT 2>/dev/null || true
  iptables -w -t nat -D POSTROUTING -s "$NET.0/24" ! -o "$BR" -j MASQUERADE 2>/dev/null || true
  ip link del "$BR" 2>/dev/null || true
  if [ -e "$STATE/forwarding" ]; then
    echo 0 >/proc/sys/net/ipv4/ip_forward
    rm -f "$STATE/forwarding"
  fi
}
registry_up() {
  command -v docker-registry >/dev/null || {
    echo "lab: no docker-registry, nodes have no mirror" >&2
    return 0
  }
  kill -0 "$(cat "$LAB/registry.pid" 2>/dev/null)" 2>/dev/null && return 0
  mkdir -p "$REGISTRY_DATA"
  cat >"$LAB/registry.yml" <<Y
version: 0.1
log: {level: warn, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: $REGISTRY_DATA}, delete: {enabled: true}, cache: {blobdescriptor: inmemory}}
http: {addr: "$REG", secret: lab}
Y
  setsid docker-registry serve "$LAB/registry.yml" >"$LAB/registry.log" 2>&1 </dev/null &
  echo $! >"$LAB/registry.pid"
}

node_boot() {
  local n=$1 d=$LAB/$1 i=${1#n}
  alive "$n" && return 0
  if [ ! -e "$d/docker" ] && [ -e "$STATE/golden/ids" ]; then # image layers are never written in place, so links are safe;
    mkdir -p "$d/docker"
    cp -al "$STATE/golden/overlay2" "$STATE/golden/image" "$d/docker/" # the bolt files are, and stay behind
  fi
  mkdir -p "$d/run" "$d/docker" "$d/etc-docker" "$d/log"
  if [ -n "${NODE_ROOT:-}" ]; then
    echo "$NODE_ROOT" >"$d/systemd"
  elif [ -e "$d/systemd" ]; then
    NODE_ROOT=$(cat "$d/systemd")
    export NODE_ROOT
  fi
  rm -rf "$d/run/"*
  rm -f "$d/init.pid"
  printf '127.0.0.1 localhost\n%s %s\n' "$(addr "$n")" "$n" >"$d/hosts"
  setsid unshare --mount --uts --ipc --net --pid --fork "$SELF" __init "$n" >"$d/log/init.log" 2>&1 </dev/null &
  local un=$! k
  # unshare stays as the parent; its only child is the node's pid 1
  for k in $(seq 100); do
    pgrep -P $un >"$d/init.pid" 2>/dev/null && [ -e "$d/run/ready" ] && break
    sleep 0.02
  done
  [ -e "$d/run/ready" ] || die "$n did not come up, see $d/log/init.log"
  ip link del "$(wire "$n")" 2>/dev/null || true
  ip link add "$(wire "$n")" type veth peer name eth0 address "$(printf '02:%02x:00:00:00:%02x' "$LAB_ID" "$i")" netns "$(init_pid "$n")" # a rebooted server keeps its MAC
  ip link set "$(wire "$n")" master "$BR" up
  nsenter -t "$(init_pid "$n")" -n sh -c "
    ip link set lo up; ip addr add $(addr "$n")/24 dev eth0; ip link set eth0 up; ip route add default via $GW"
  touch "$d/run/linked"
  engine_start "$n"
  local service command
  for service in "$d/services"/*; do
    [ -e "$service" ] || continue
    mapfile -d '' -t command <"$service"
    service_start "$n" "$(basename "$service")" "${command[@]}"
  done
}
# Supervised until service-stop or the node's end. The program's pid, as the node sees it, is in /run/svc-NAME.child.
service_start() {
  local n=$1 s=$2
  shift 2
  # shellcheck disable=SC2016  # expands in the node, not here
  setsid nsenter -t "$(init_pid "$n")" -m -u -n -p -- sh -c 's=$1; shift; echo $$ >/run/svc-$s.pid
    trap "kill \$c 2>/dev/null; exit" TERM
    while :; do "$@" & c=$!; echo $c >/run/svc-$s.child; wait $c; echo "exited $?, again in 1 s"; sleep 1; done' sh "$s" "$@" \
    >>"$LAB/$n/log/$s.log" 2>&1 </dev/null &
}
CG="memory cpu cpuacct cpuset devices freezer blkio pids"
# pid 1 of a systemd node, first half: enter the node's cgroups, then a cgroup namespace of its own.
node_init_systemd() {
  local n=$1 d=$LAB/$1 c
  mount --make-rprivate /
  for c in $CG systemd unified; do
    mkdir -p "/sys/fs/cgroup/$c/$CG_ROOT/$n"
    if [ "$c" = cpuset ]; then for f in cpuset.cpus cpuset.mems; do
      cat /sys/fs/cgroup/cpuset/$f >"/sys/fs/cgroup/cpuset/$CG_ROOT/$f"
      cat /sys/fs/cgroup/cpuset/$f >"/sys/fs/cgroup/cpuset/$CG_ROOT/$n/$f"
    done; fi
    echo 0 >"/sys/fs/cgroup/$c/$CG_ROOT/$n/cgroup.procs"
  done
  exec unshare --cgroup "$SELF" __init2 "$n"
}
node_init_systemd2() {
  local n=$1 d=$LAB/$1 c R=$LAB/$1/root k
  mkdir -p "$R" "$d/up" "$d/wk"
  mount -t overlay overlay -o "lowerdir=$NODE_ROOT,upperdir=$d/up,workdir=$d/wk" "$R"
  mount -t proc proc "$R/proc"
  mount -t sysfs sysfs "$R/sys"
  mount -t tmpfs -o mode=755 tmpfs "$R/sys/fs/cgroup"
  for c in $CG; do
    mkdir "$R/sys/fs/cgroup/$c"
    mount -t cgroup -o "$c" cgroup "$R/sys/fs/cgroup/$c"
  done
  mkdir "$R/sys/fs/cgroup/systemd" "$R/sys/fs/cgroup/unified"
  mount -t cgroup -o none,name=systemd cgroup "$R/sys/fs/cgroup/systemd"
  mount -t cgroup2 cgroup2 "$R/sys/fs/cgroup/unified"
  mount -t tmpfs -o mode=755 tmpfs "$R/dev"
  mkdir "$R/dev/pts" "$R/dev/shm" "$R/dev/net"
  mknod -m 666 "$R/dev/null" c 1 3
  mknod -m 666 "$R/dev/zero" c 1 5
  mknod -m 666 "$R/dev/full" c 1 7
  mknod -m 666 "$R/dev/random" c 1 8
  mknod -m 666 "$R/dev/urandom" c 1 9
  mknod -m 666 "$R/dev/tty" c 5 0
  mknod -m 660 "$R/dev/net/tun" c 10 200
  mknod -m 644 "$R/dev/kmsg" c 1 11
  ln -s /proc/self/fd "$R/dev/fd"
  ln -s fd/0 "$R/dev/stdin"
  ln -s fd/1 "$R/dev/stdout"
  ln -s fd/2 "$R/dev/stderr"
  ln -s pts/ptmx "$R/dev/ptmx"
  mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts "$R/dev/pts"
  mount -t tmpfs tmpfs "$R/dev/shm"
  mount -t tmpfs -o mode=755 tmpfs "$R/run"
  mount -t tmpfs tmpfs "$R/tmp"
  mkdir -p "$R/var/lib/docker" "$R/etc/docker" "$R/root/.ssh"
  mount --bind "$d/docker" "$R/var/lib/docker"
  echo "$n" >"$R/etc/hostname"
  hostname "$n"
  cp "$d/hosts" "$R/etc/hosts"
  cat /etc/resolv.conf >"$R/etc/resolv.conf"
  [ -z "${SSH_KEY:-}" ] || {
    cat "$SSH_KEY" >"$R/root/.ssh/authorized_keys"
    chmod 600 "$R/root/.ssh/authorized_keys"
  }
  printf '{"registry-mirrors":["http://%s"],"insecure-registries":["%s"],"bip":"10.78.%s.1/24"}\n' "$REG" "$REG" "${n#n}" >"$R/etc/docker/daemon.json"
  touch "$d/run/ready"
  for k in $(seq 200); do
    [ -e "$d/run/linked" ] && break
    sleep 0.02
  done
  cd "$R"
  mkdir -p .old
  pivot_root . .old
  umount -l /.old
  exec env -i container=docker PATH=/usr/sbin:/usr/bin:/sbin:/bin /sbin/init >/dev/null 2>&1 </dev/null
}
# Runs as pid 1 of the node.
node_init() {
  local n=$1 d=$LAB/$1 c
  mount --make-rprivate /
  mount -t proc proc /proc
  mkdir -p "$d/cg" && mount --rbind /sys/fs/cgroup "$d/cg" # keep the cgroups across a fresh /sys,
  mount -t sysfs sysfs /sys                                # which shows this node's own links
  mount --rbind "$d/cg" /sys/fs/cgroup && umount -l "$d/cg"
  mkdir -p /var/lib/docker /etc/docker
  mount --bind "$d/docker" /var/lib/docker
  mount --bind "$d/etc-docker" /etc/docker
  mount --bind "$d/hosts" /etc/hosts
  mount --bind "$d/run" /run
  echo "$n" >/run/hostname && mount --bind /run/hostname /etc/hostname
  hostname "$n"
  # Of cgroup v2 there is one tree, and the engine makes its own part of it.
  if [ ! -e /sys/fs/cgroup/cgroup.controllers ]; then
    for c in memory cpu cpuset pids; do mkdir -p "/sys/fs/cgroup/$c/$CG_ROOT/$n"; done
  fi
  touch /run/ready
  exec tini -s -- sleep infinity
}
engine_start() {
  local flags
  read -ra flags <<<"${ENGINE_FLAGS:-}"
  local n=$1 i=${1#n} d=$LAB/$1
  kill -0 "$(cat "$d/dockerd.pid" 2>/dev/null)" 2>/dev/null && return 0
  if [ -e "$d/systemd" ]; then
    local k
    for k in $(seq 200); do
      curl -fs -m 5 -o /dev/null --unix-socket "$(sock "$n")" http://d/_ping 2>/dev/null && engine_pid "$n" >"$d/dockerd.pid" && return 0
      [ "$k" -lt 20 ] || [ $((k % 20)) -ne 0 ] || inside "$n" systemctl start docker >/dev/null 2>&1 || true
      sleep 0.1
    done
    die "no engine in $n"
  fi
  rm -f "$d/run/docker.pid" "$d/run/docker/containerd/"*.pid
  PATH=${ENGINE_PATH:+$ENGINE_PATH:}$PATH inside "$n" sh -c 'echo $$ >/run/engine.nspid; exec "$@"' sh \
    dockerd --data-root /var/lib/docker --exec-root /run/docker --pidfile /run/docker.pid \
    -H unix:///run/docker.sock \
    --registry-mirror="http://$REG" --insecure-registry="$REG" \
    --bip="10.78.$i.1/24" --cgroup-parent="/$CG_ROOT/$n" --storage-driver=overlay2 --log-level=warn \
    "${flags[@]}" >>"$d/log/dockerd.log" 2>&1 </dev/null &
  local k
  for k in $(seq 300); do
    curl -fs -o /dev/null --unix-socket "$d/run/docker.sock" http://d/_ping 2>/dev/null && break
    sleep 0.05
  done
  engine_pid "$n" >"$d/dockerd.pid" || true
  curl -fs -o /dev/null --unix-socket "$d/run/docker.sock" http://d/_ping || die "engine of $n did not answer, see $d/log/dockerd.log"
}
# pid, as the machine sees it, of the node's dockerd
engine_pid() {
  local p i
  i=$(readlink "/proc/$(init_pid "$1")/ns/pid")
  for p in $(pgrep -x dockerd); do [ "$(readlink /proc/"$p/ns/pid")" = "$i" ] && echo "$p" && return; done
  return 1
}
node_crash() {
  local p
  p=$(init_pid "$1")
  ip link del "$(wire "$1")" 2>/dev/null || true # first: a machine without power says no goodbye
  if [ -n "$p" ]; then kill -9 "$p" 2>/dev/null || true; fi
  rm -f "$LAB"/"$1/init.pid" "$LAB"/"$1/dockerd.pid"
  local k
  for k in $(seq 100); do
    [ -d /proc/"${p:-0}" ] || break
    sleep 0.02
  done
}
drop() {
  local op=$1 a=$2 b=$3 # the rule sits in both nodes, so root's tables stay clean
  inside "$a" iptables -w "$op" INPUT -s "$(addr "$b")" -j DROP
  inside "$b" iptables -w "$op" INPUT -s "$(addr "$a")" -j DROP
}

cmd=${1:-help}
shift || true
case $cmd in
  up)
    [ "$(id -u)" = 0 ] || die "root needed"
    mkdir -p "$LAB"
    bridge_up
    registry_up
    for i in $(seq "${1:-3}"); do
      s=$(date +%s%N)
      node_boot "n$i"
      echo "n$i $(addr "n$i") up in $((($(date +%s%N) - s) / 1000000)) ms"
    done
    ;;
  down)
    for n in $(nodes); do node_crash "$n"; done
    # What a paused container froze ends only once it is thawed.
    find "/sys/fs/cgroup/freezer/$CG_ROOT" -name freezer.state -exec sh -c 'echo THAWED >"$1"' sh {} \; 2>/dev/null || true
    p=$(cat "$LAB/registry.pid" 2>/dev/null || true)
    if [ -n "$p" ]; then kill "$p" 2>/dev/null || true; fi
    rm -f "$LAB/registry.pid"
    bridge_down
    for k in $(seq 50); do # the last processes of a killed node take a moment to leave their cgroups
      for c in "/sys/fs/cgroup/$CG_ROOT" /sys/fs/cgroup/*/"$CG_ROOT"; do
        [ ! -d "$c" ] || find "$c" -depth -type d -exec rmdir {} + 2>/dev/null || true
      done
      compgen -G "/sys/fs/cgroup/$CG_ROOT" >/dev/null || compgen -G "/sys/fs/cgroup/*/$CG_ROOT" >/dev/null || break
      sleep 0.1
    done
    ;;
  purge)
    "$SELF" down
    rm -rf "$LAB" "$REGISTRY_DATA" "$STATE/golden"
    rmdir "$STATE" 2>/dev/null || true
    ;;
  status) for n in $(nodes); do
    if alive "$n"; then
      v=$(curl -fs -m 2 --unix-socket "$(sock "$n")" http://d/info 2>/dev/null | python3 -c 'import json,sys;d=json.load(sys.stdin);print("engine",d["ServerVersion"],"containers",d["ContainersRunning"],"images",d["Images"])' 2>/dev/null || echo "engine down")
      pp=$(engine_pid "$n" || true)
      r=$([ -n "$pp" ] && awk '/VmRSS/{print $2/1024}' /proc/"$pp/status" || echo 0)
      echo "$n $(addr "$n") init=$(init_pid "$n") dockerd=${pp:-none} rss=${r%.*}MiB $v"
    else echo "$n $(addr "$n") off"; fi
  done ;;
  exec)
    n=$1
    shift
    alive "$n" || die "$n is off"
    inside "$n" "$@"
    ;;
  docker)
    n=$1
    shift
    exec docker -H "unix://$(sock "$n")" "$@"
    ;;
  service)
    n=$1 s=$2
    shift 2
    alive "$n" || die "$n is off"
    if [ -e "$LAB"/"$n/systemd" ]; then
      inside "$n" systemd-run --unit="$s" -p Restart=always -p RestartSec=1 "$@"
      exit
    fi
    mkdir -p "$LAB/$n/services"
    printf '%s\0' "$@" >"$LAB/$n/services/$s"
    service_start "$n" "$s" "$@"
    ;;
  push)
    t=127.0.0.1:5055
    mkdir -p "$LAB" "$REGISTRY_DATA" # 127.0.0.0/8 is the only http registry an engine trusts unasked
    printf 'version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: "%s", secret: lab}\n' "$REGISTRY_DATA" $t >"$LAB/push.yml"
    docker-registry serve "$LAB/push.yml" >"$LAB/push.log" 2>&1 &
    rp=$!
    trap 'kill "$rp"' EXIT
    sleep 0.7
    for i in "$@"; do
      case $i in */*) d=$t/$i ;; *) d=$t/library/$i ;; esac
      docker tag "$i" "$d"
      docker push -q "$d"
      docker rmi "$d" >/dev/null
    done
    ;;
  golden)
    ids=$(docker image inspect -f '{{.Id}} {{.RepoTags}}' "$@" | sort)
    mkdir -p "$GOLDEN" "$LAB" "$STATE"
    folder=$GOLDEN/$(printf '%s\n' "$@" | sort | sha256sum | cut -c1-12)
    ln -sfn "$folder" "$STATE/golden"
    exec {lock}>"$folder.lock" # another lab may be making it
    flock "$lock"
    if [ "$(cat "$folder/ids" 2>/dev/null)" = "$ids" ]; then exit; fi
    rm -rf "$folder"
    bridge_up
    node_boot n99
    docker save "$@" | docker -H "unix://$(sock n99)" load -q >/dev/null
    kill "$(engine_pid n99)"
    while engine_pid n99 >/dev/null; do sleep 0.1; done
    node_crash n99
    mkdir -p "$folder"
    mv "$LAB/n99/docker/overlay2" "$LAB/n99/docker/image" "$folder/"
    echo "$ids" >"$folder/ids" # last: without it the rest does not count
    rm -rf "$LAB/n99"
    ;;
  service-stop)
    if [ -e "$LAB"/"$1/systemd" ]; then
      inside "$1" systemctl stop "$2"
      exit
    fi
    rm -f "$LAB/$1/services/$2"
    # shellcheck disable=SC2016  # expands in the node, not here
    inside "$1" sh -c 'kill "$(cat "/run/svc-$1.pid")"; rm -f "/run/svc-$1.pid" "/run/svc-$1.child"' sh "$2"
    ;;
  service-kill)
    # shellcheck disable=SC2016  # expands in the node, not here
    inside "$1" sh -c 'kill -9 "$(cat "/run/svc-$1.child")"' sh "$2"
    ;;
  cut) ip link set "$(wire "$1")" down ;;
  heal) ip link set "$(wire "$1")" up ;;
  loss)
    inside "$1" iptables -w -N LAB_LOSS 2>/dev/null || inside "$1" iptables -w -F LAB_LOSS
    for way in "INPUT -i" "OUTPUT -o"; do
      read -ra way <<<"$way eth0 -j LAB_LOSS"
      inside "$1" iptables -w -C "${way[@]}" 2>/dev/null || inside "$1" iptables -w -I "${way[@]}"
    done
    [ "$2" = 0 ] || inside "$1" iptables -w -A LAB_LOSS -m statistic --mode random --probability "$2" -j DROP
    ;;
  part) drop -I "$1" "$2" ;;
  unpart) drop -D "$1" "$2" ;;
  kill-engine)
    kill -9 "$(engine_pid "$1")"
    rm -f "$LAB"/"$1/dockerd.pid"
    ;;
  start-engine) engine_start "$1" ;;
  crash) node_crash "$1" ;;
  boot) node_boot "$1" ;;
  __init) if [ -n "${NODE_ROOT:-}" ]; then node_init_systemd "$1"; else node_init "$1"; fi ;;
  __init2) node_init_systemd2 "$1" ;;
  rootfs)
    rm -rf "$STATE/rootfs"
    mkdir -p "$STATE/rootfs"
    c=$(docker create "$1")
    docker export "$c" | tar -x -C "$STATE/rootfs"
    docker rm -v "$c" >/dev/null
    rm -f "$STATE/rootfs/.dockerenv"
    echo "NODE_ROOT=$STATE/rootfs"
    ;;
  *) sed -n '2,/^set/p' "$SELF" | sed '$d; s/^# \{0,1\}//' ;;
esac
