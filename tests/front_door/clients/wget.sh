#!/bin/sh
# wget of busybox. Reads lines "METHOD PATH KEY BYTES FLAGS" from standard input. Prints the status, a space and the
# body for each. wget does not print the body of an error.
body=$(mktemp) headers=$(mktemp) reply=$(mktemp)
trap 'rm -f "$body" "$headers" "$reply"' EXIT
while read -r method path key bytes _; do
    set -- wget -q -S -O "$reply" --header "X-API-Key: $key"
    if [ "$method" = POST ]; then
        head -c "$bytes" /dev/zero | tr '\0' x >"$body"
        set -- "$@" --post-file "$body"
    fi
    : >"$reply"
    timeout 10 busybox "$@" "$BASE$path" 2>"$headers"
    printf '%s %s\n' "$(sed -n 's|.*HTTP/1.1 \([0-9][0-9][0-9]\) .*|\1|p' "$headers" | head -n 1)" "$(cat "$reply")"
done
