#!/usr/bin/env bash
# The floor of a pipe: `curl | tee >(openssl sha1) | curl` for each name; the digests are waited for, so that
# openssl's CPU is counted and its result can be compared.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkfifo "$folder/copy"
for name in "$@"; do
    openssl dgst -sha1 -r < "$folder/copy" > "$folder/sha1" &
    curl --silent --show-error --fail "$FILES_URL$name" | tee "$folder/copy" |
        curl --silent --show-error --fail --output "$folder/answer" --upload-file - "$SINK_URL/_bench/put/$name"
    wait
    ours=$(cut -d' ' -f1 "$folder/sha1")
    grep -q "\"sha1\": \"$ours\"" "$folder/answer" || { echo "$name: another SHA-1 arrived" >&2; exit 1; }
done
