#!/usr/bin/env bash
# Makes the golden repositories beside this script: tests/golden/restic-VERSION-v{1,2} and what restic itself lists of them.
# Run as root (devices, owners, trusted attributes) with restic 0.14, attr and acl. Run it only to add a writer or a case: what is
# checked in is what that writer wrote, and a reader must read it for ever.
set -euo pipefail
cd "$(dirname "$0")"
version=$(restic version | cut -d' ' -f2)
export RESTIC_PASSWORD=golden RESTIC_CACHE_DIR
RESTIC_CACHE_DIR=$(mktemp -d)
root=/tmp/golden
rm -rf "$root"
mkdir -p "$root/dir/deeper" "$root/empty"
trap 'rm -rf "$root" "$RESTIC_CACHE_DIR"' EXIT

printf 'hello\n' >"$root/file"
: >"$root/empty-file"
seq 1 1000 >"$root/numbers"
ln "$root/file" "$root/dir/hard-link"
ln -s ../file "$root/dir/link"
ln -s "$(printf 'to\xff')" "$root/dir/odd-link"
mkfifo "$root/dir/fifo"
python3 -c 'import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])' "$root/dir/socket"
mknod "$root/dir/block" b 7 300
mknod "$root/dir/char" c 1 3
truncate -s 16K "$root/dir/deeper/sparse"
for name in $'new\nline' $'quote"s' 'back\slash' $'\xff\xfe' 'ä€😀' ' ' '%41' $'tab\tbell\a'; do
    printf '%s' "$name" >"$root/dir/$name"
done
setfattr -n user.text -v value "$root/file"
setfattr -n user.bytes -v 0x00ff00 "$root/file"
setfattr -n trusted.empty "$root/dir"
setfacl -m u:1234:rwx,d:g:4321:r-x "$root/empty"
chown 12345:54321 "$root/numbers"
chown 4294967294:3000000000 "$root/empty-file"
chmod 4755 "$root/numbers"
chmod 2750 "$root/dir/deeper"
chmod 1777 "$root/empty"
chmod 000 "$root/dir/char"
find "$root" -depth -exec touch -h -d '2001-02-03T04:05:06.123456789Z' {} +
touch -h -d '1960-01-01T00:00:00Z' "$root/dir/link"
touch -d '2100-01-01T00:00:00.000000001Z' "$root/empty-file"

for format in 1 2; do
    repository=restic-$version-v$format
    rm -rf "$repository" "$repository".*.json
    restic -q -r "$repository" init --repository-version "$format"
    TZ=UTC restic -q -r "$repository" backup --host golden --tag first "$root"
    printf 'more\n' >>"$root/file"
    TZ=Asia/Kolkata restic -q -r "$repository" backup --host golden --tag second,last --exclude deeper "$root"
    printf 'hello\n' >"$root/file"
    touch -d '2001-02-03T04:05:06.123456789Z' "$root/file"
    restic -r "$repository" snapshots --json | python3 -m json.tool >"$repository.snapshots.json"
    for tree in $(restic -r "$repository" list blobs | sed -n 's/^tree //p' | sort); do
        restic -r "$repository" cat blob "$tree" | python3 -c 'import json, sys; json.dump({"id": sys.argv[1], **json.load(sys.stdin)}, sys.stdout); print()' "$tree"
    done >"$repository.trees.json"
    chmod -R u+w "$repository"
    find "$repository" -type d -empty -delete
done
