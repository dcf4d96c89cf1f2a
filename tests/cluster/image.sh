#!/usr/bin/env bash
# Writes a Docker archive of one layer, the files of DIR owned by root, to standard output. The same files give the same bytes.
# Usage: image.sh NAME CONFIG DIR    CONFIG: the image's `config` as JSON, as {"Entrypoint": ["/bin/x"], "User": "65532"}
set -euo pipefail
name=$1 config=$2 dir=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
archive() { tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner "$@"; }
sha() { sha256sum "$1" | cut -d' ' -f1; }

archive -C "$dir" -cf "$work/layer.tar" .
printf '{"architecture":"%s","os":"linux","config":%s,"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
  "$(dpkg --print-architecture)" "$config" "$(sha "$work/layer.tar")" > "$work/config.json"
mv "$work/config.json" "$work/$(sha "$work/config.json").json"
printf '[{"Config":"%s","RepoTags":["%s"],"Layers":["layer.tar"]}]' "$(cd "$work" && ls -- *.json)" "$name" > "$work/manifest.json"
archive -C "$work" -cf - .
