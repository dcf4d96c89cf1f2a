#!/usr/bin/env bash
# Installs what the tests, the demo and the benchmarks run: programs of Debian, and others built from pinned Go modules.
# Usage: install.sh demo | test
# STASH_FS_TOOLS names the folder that holds the latter, in bin/ (default /var/tmp/stash-fs-tools).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
what=${1:?demo or test}
bin=${STASH_FS_TOOLS:-/var/tmp/stash-fs-tools}/bin

packages=(fuse3 gcc libc6-dev make)
if [ "$what" = test ]; then
  packages+=(acl attr diffutils e2fsprogs git openssh-client openssh-server openssl rclone restic rsync tar unzip util-linux)
  # The cluster.
  packages+=(busybox-static conntrack containerd containernetworking-plugins etcd-server iproute2 iptables runc)
fi
missing=()
for p in "${packages[@]}"; do
  dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
done
if [ ${#missing[@]} -gt 0 ]; then
  echo "installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get -q update >/dev/null
  apt-get -q install -y --no-install-recommends "${missing[@]}" >/dev/null
fi
[ "$what" = demo ] && exit 0

mkdir -p "$bin"
# A stamp holds what was built, so that a changed pin or flag builds again and everything else costs nothing.
build() { # NAME FOLDER LDFLAGS OUTPUT PACKAGE...
  local name=$1 folder=$2 flags=$3 output=$4 started=$SECONDS stamp
  shift 4
  stamp=$( (cat "$folder/go.mod" "$folder/go.sum"; echo "$flags" "$@") | sha256sum | cut -d' ' -f1)
  [ "$(cat "$bin/.stamp-$name" 2>/dev/null)" != "$stamp" ] || return 0
  (cd "$folder" && CGO_ENABLED=0 go build -mod=mod -trimpath -ldflags "$flags" -o "$bin/$output" "$@")
  echo "$stamp" > "$bin/.stamp-$name"
  echo "$name: built in $((SECONDS - started)) s"
}

build minio "$here" '-s -w' minio github.com/minio/minio
build toxiproxy "$here" '-s -w' toxiproxy-server github.com/Shopify/toxiproxy/v2/cmd/server

build csi-sanity "$here/../csi" '-s -w' csi-sanity github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity

# Without their version they would be v0.0.0 and refuse each other.
version=$(awk '$1 == "require" && $2 == "k8s.io/kubernetes" { print $3 }' "$here/../cluster/go.mod")
IFS=. read -r major minor _ <<<"${version#v}"
flags='-s -w'
for setting in "gitVersion=$version" "gitMajor=$major" "gitMinor=$minor" gitTreeState=clean gitCommit=unknown buildDate=2026-01-01T00:00:00Z; do
  flags+=" -X k8s.io/component-base/version.$setting"
done
programs=(kube-apiserver kube-controller-manager kube-proxy kube-scheduler kubectl kubelet)
build kubernetes "$here/../cluster" "$flags" "" "${programs[@]/#/k8s.io/kubernetes/cmd/}"

# Of the same Kubernetes, whose libraries are compiled by now; without its version it would take a server for v1.20.
helm=$(awk '$1 == "require" && $2 == "helm.sh/helm/v3" { print $3 }' "$here/../helm/go.mod")
flags="-s -w -X helm.sh/helm/v3/internal/version.version=$helm"
for package in chartutil lint/rules; do
  flags+=" -X helm.sh/helm/v3/pkg/$package.k8sVersionMajor=$major -X helm.sh/helm/v3/pkg/$package.k8sVersionMinor=$minor"
done
build helm "$here/../helm" "$flags" helm helm.sh/helm/v3/cmd/helm
