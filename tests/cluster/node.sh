#!/usr/bin/env bash
# The node: the first process of its own mount, network, process and UTS namespaces, which cluster.sh makes. Prints "ready" when
# pods can be started. When it ends, the kernel ends every process of the node and drops its mounts, links and rules.
# Usage: node.sh STATE BIN HERE
set -euo pipefail
state=$1 PATH=$2:$PATH here=$3
host=198.18.255.1 node=198.18.255.2 pods=198.18.0.0/24 services=198.19.0.0/16
hostname node-1

declare -A name_of=()
start() { # NAME PROGRAM ARGUMENT...
  local name=$1
  shift
  "$@" </dev/null >"/var/log/$name.log" 2>&1 &
  name_of[$!]=$name
}
ended() { # PID: says why a program has ended
  echo "${name_of[$1]} ended:"
  tail -n 20 "/var/log/${name_of[$1]}.log"
} >&2
until_true() { # SECONDS WHAT COMMAND...
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    for pid in "${!name_of[@]}"; do
      kill -0 "$pid" 2>/dev/null || { ended "$pid"; return 1; }
    done
    [ $SECONDS -lt $deadline ] || { echo "no $what in time" >&2; return 1; }
    sleep 0.1 # a pause between two looks
  done
}

# --- Mounts. The node writes below /var/lib, /var/log and /run only, and these are its own here.
mount --make-rshared /
mkdir -p "$state"/{lib,log}
mount --bind "$state/lib" /var/lib
mount --bind "$state/log" /var/log
mount -t tmpfs -o mode=755 run /run
mkdir -p /run/lock /var/lib/cluster
cp -r "$here"/etc/. "$here"/*.sh /var/lib/cluster
cd /var/lib/cluster
# These belong to the whole machine; kubelet wants them so, and is content with files that say so.
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
  kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
  file=/run/sysctl/${setting%=*}
  mkdir -p "${file%/*}"
  echo "${setting#*=}" > "$file"
  mount --bind "$file" "/proc/sys/${setting%=*}"
done

# --- Network: eth0 leads to the machine, and nothing leads further.
until_true 60 "link to the machine" ip link show dev eth0
ip link set lo up
ip addr add "$node/30" dev eth0
ip link set eth0 up
# So that an address of a service has a route, which processes of the node need before kube-proxy's rules see a packet.
ip route add "$services" dev eth0
echo 1 > /proc/sys/net/ipv4/ip_forward

# --- Who is who: an authority, one certificate for the API server (towards kubelet a client's), and a token each.
request() { # NAME SUBJECT ARGUMENT...
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -config <(printf '[req]\ndistinguished_name=n\n[n]\n') \
    -keyout "$1.key" -out "$1.crt" -subj "$2" "${@:3}" 2>/dev/null
}
request ca /CN=stash-fs-test-cluster -addext basicConstraints=critical,CA:TRUE
request apiserver /O=system:masters/CN=kube-apiserver -CA ca.crt -CAkey ca.key -addext basicConstraints=CA:FALSE \
  -addext "subjectAltName=DNS:localhost,DNS:kubernetes.default.svc,IP:127.0.0.1,IP:198.19.0.1,IP:$node"
user() { # FILE NAME GROUPS
  local token
  token=$(openssl rand -hex 16)
  echo "$token,$2,$2,\"${3:-}\"" >> tokens.csv
  cat > "$1.conf" <<Y
apiVersion: v1
kind: Config
clusters: [{ name: test, cluster: { server: "https://$node:6443", certificate-authority-data: $(base64 -w0 ca.crt) } }]
users: [{ name: "$2", user: { token: $token } }]
contexts: [{ name: test, context: { cluster: test, user: "$2" } }]
current-context: test
Y
}
umask 077
user admin admin system:masters
user kubelet system:node:node-1 system:nodes
for name in kube-controller-manager kube-scheduler kube-proxy; do user $name system:$name; done
umask 022
export KUBECONFIG=$PWD/admin.conf

# --- Programs
start_containerd() {
  start containerd containerd --config containerd.toml
}
start_kubelet() {
  start kubelet kubelet --config=kubelet.yaml --kubeconfig=kubelet.conf --node-ip=$node
}
start_containerd
start etcd etcd --data-dir /var/lib/etcd --unsafe-no-fsync
start kube-apiserver kube-apiserver --etcd-servers=http://127.0.0.1:2379 --bind-address=0.0.0.0 --advertise-address=$node \
  --service-cluster-ip-range=$services --allow-privileged --authorization-mode=Node,RBAC \
  --enable-admission-plugins=NodeRestriction --token-auth-file=tokens.csv --client-ca-file=ca.crt \
  --tls-cert-file=apiserver.crt --tls-private-key-file=apiserver.key \
  --kubelet-client-certificate=apiserver.crt --kubelet-client-key=apiserver.key --kubelet-preferred-address-types=InternalIP \
  --service-account-issuer=https://kubernetes.default.svc --service-account-key-file=apiserver.crt \
  --service-account-signing-key-file=apiserver.key

busybox=$(mktemp -d)
mkdir -p "$busybox"/{bin,tmp,etc}
chmod 1777 "$busybox/tmp"
cp "$(type -P busybox)" "$busybox/bin/busybox"
for applet in $(busybox --list); do [ -e "$busybox/bin/$applet" ] || ln -s busybox "$busybox/bin/$applet"; done
until_true 120 containerd ctr version
./image.sh localhost/busybox:1 '{"Env":["PATH=/bin"],"Cmd":["sh"]}' "$busybox" | ctr -n k8s.io images import - >/dev/null
./image.sh localhost/pause:1 '{"Entrypoint":["/bin/busybox","sleep","2147483647"]}' "$busybox" | ctr -n k8s.io images import - >/dev/null
rm -r "$busybox"

until_true 120 "API server" kubectl get --raw /readyz
start_kubelet
# A node of a busy machine is not lost because it was silent for a minute.
start kube-controller-manager kube-controller-manager --kubeconfig=kube-controller-manager.conf --leader-elect=false \
  --flex-volume-plugin-dir=/var/lib/kubelet/volume-plugins --node-monitor-grace-period=5m \
  --use-service-account-credentials --service-account-private-key-file=apiserver.key --root-ca-file=ca.crt
start kube-scheduler kube-scheduler --kubeconfig=kube-scheduler.conf --leader-elect=false
# The settings of connection tracking belong to the whole machine too.
start kube-proxy kube-proxy --kubeconfig=kube-proxy.conf --hostname-override=node-1 --cluster-cidr=$pods --proxy-mode=iptables \
  --conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0 --conntrack-tcp-timeout-close-wait=0
kubectl apply -f storage-class.yaml >/dev/null
start provisioner ./provisioner.sh "$KUBECONFIG"
until_true 120 "node" kubectl wait --for=condition=Ready node/node-1 --timeout=1s
until_true 120 "account for pods" kubectl get serviceaccount default
echo 0 > boots
echo ready

# --- A loss of power, for who sends SIGUSR1: what a node runs ends at once, and what it has mounted and written to /run is gone. What is
# the cluster's goes on. The file "boots" counts.
of_the_node() { # prints the processes that are not the cluster's
  local pid at parent kept=" $$ $BASHPID ${!name_of[*]} "
  for pid in /proc/[0-9]*; do
    pid=${pid#/proc/} at=$pid
    while [[ $kept != *" $at "* ]]; do
      parent=$(awk '/^PPid:/ { print $2 }' "/proc/$at/status" 2>/dev/null) || continue 2
      case $parent in
        0 | "") continue 2 ;; # it was entered from outside, or has ended
        1) echo "$pid"; continue 2 ;;
      esac
      at=$parent
    done
  done
}
none_of_the_node() {
  local left
  left=$(of_the_node)
  [ -z "$left" ] || { kill -KILL $left 2>/dev/null; return 1; }
}
lose_power() {
  local pid
  for pid in "${!name_of[@]}"; do
    case ${name_of[$pid]} in
      containerd | kubelet)
        unset "name_of[$pid]"
        kill -KILL "$pid"
        wait "$pid" || true
        ;;
    esac
  done 2>/dev/null
  # Each look asks for every process of the machine, which takes seconds while it is busy.
  until_true 120 "end of the node's processes" none_of_the_node
  awk '$5 ~ "^(/var/lib/kubelet|/run)/" { print $5 }' /proc/self/mountinfo | tac | while read -r path; do umount -l "$path"; done
  find /sys/fs/cgroup -depth -type d -path '*/stash-fs-cluster/kubepods*' -exec rmdir {} + 2>/dev/null || true
  find /run -mindepth 1 -maxdepth 1 ! -name lock ! -name sysctl -exec rm -rf --one-file-system {} +
  start_containerd
  # It takes stock of what ran before, and refuses kubelet meanwhile.
  until_true 60 containerd grep -q "Start streaming server" /var/log/containerd.log
  start_kubelet
  echo $(($(cat boots) + 1)) > boots
}
trap lose_power USR1

first=
while [ -z "${first:-}" ]; do
  wait -n -p first "${!name_of[@]}" || true
done
ended "$first"
exit 1
