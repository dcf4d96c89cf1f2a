#!/usr/bin/env bash
# Installs what the tests, the demo and the benchmarks run: programs of Debian, and two servers built from pinned Go modules.
# Usage: install.sh demo | test
# STASH_FS_TOOLS names the folder that holds them, in bin/ (default /var/tmp/stash-fs-tools).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
what=${1:?demo or test}
bin=${STASH_FS_TOOLS:-/var/tmp/stash-fs-tools}/bin

packages=(fuse3 gcc libc6-dev make)
[ "$what" = demo ] || packages+=(acl attr openssh-client openssh-server openssl rclone restic rsync tar unzip util-linux)
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
# The stamp holds what was built, so that a changed pin builds again and everything else costs nothing.
stamp=$(sha256sum "$here/go.mod" "$here/go.sum" | sha256sum | cut -d' ' -f1)
if [ "$(cat "$bin/.stamp" 2>/dev/null)" != "$stamp" ]; then
  cd "$here"
  CGO_ENABLED=0 go build -mod=mod -trimpath -ldflags '-s -w' -o "$bin/toxiproxy-server" github.com/Shopify/toxiproxy/v2/cmd/server
  CGO_ENABLED=0 go build -mod=mod -trimpath -ldflags '-s -w' -o "$bin/minio" github.com/minio/minio
  echo "$stamp" > "$bin/.stamp"
fi
