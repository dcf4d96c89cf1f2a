#!/usr/bin/env bash
# Shows the product on real data: a directory is backed up into a new repository (or REPO is used as it is), the
# repository is mounted, and at a terminal you browse it until Ctrl-C. Without a terminal the mounted tree is compared
# with the source byte for byte.
# Usage: [DIR=directory] [REPO=repository] demo.sh path/to/stash-fs
set -euo pipefail
stash=$(realpath "${1:?the stash-fs program}")
work=$(mktemp -d "${TMPDIR:-/tmp}/stash-fs-demo.XXXXXX")
mnt=$work/mnt
mkdir "$mnt"
mounted=
cleanup() {
  [ -z "$mounted" ] || "$stash" umount "$mnt" || "$stash" umount -l "$mnt" || true
  rm -rf --one-file-system "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.2f s", b - a }'; }

if [ -n "${REPO:-}" ]; then
  export RESTIC_REPOSITORY=$REPO
  dir=
else
  dir=$(realpath "${DIR:-/usr/share}")
  export RESTIC_REPOSITORY=$work/repo
  printf 'demo' > "$work/password"
  export RESTIC_PASSWORD_FILE=$work/password
  t=$(now); "$stash" init --quiet; echo "repository made in $(since "$t")"
  t=$(now); "$stash" backup --quiet "$dir"; echo "$dir backed up in $(since "$t")"
fi
export STASH_FS_CACHE_DIR=${STASH_FS_CACHE_DIR:-$work/cache}
t=$(now); "$stash" mount --daemon "$mnt"; mounted=1; echo "mounted at $mnt in $(since "$t")"

cat <<TEXT

Browse it, in another terminal:
  ls $mnt/snapshots/latest${dir}
  find $mnt/snapshots/latest${dir} -name '*.txt' | head
  cp -a $mnt/snapshots/latest${dir}/some/file .
  ls $mnt/hosts $mnt/ids

TEXT

if [ -t 0 ] && [ -t 1 ]; then
  echo "Ctrl-C unmounts."
  while mountpoint -q "$mnt"; do sleep 1; done
  mounted=
  exit 0
fi

if [ -n "$dir" ]; then
  tree=$mnt/snapshots/latest$dir
  t=$(now); entries=$(find "$tree" -printf x | wc -c); echo "walked $entries entries in $(since "$t")"
  t=$(now); entries=$(find "$tree" -printf x | wc -c); echo "walked again in $(since "$t")"
  t=$(now); diff -r --no-dereference "$dir" "$tree"; echo "compared byte for byte with the source in $(since "$t")"
  [ "$(find "$dir" -printf x | wc -c)" = "$entries" ] || { echo "the mounted tree has another number of entries" >&2; exit 1; }
  echo "the mounted tree equals $dir"
else
  t=$(now); ls "$mnt/snapshots" | tail -5; echo "listed in $(since "$t")"
fi
