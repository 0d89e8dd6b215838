#!/bin/sh
# curl. Reads lines "METHOD PATH KEY BYTES FLAGS" from standard input. Prints the status, a space and the body for each.
# With the flag "expect" it sends Expect: 100-continue before a body, else it does not.
while read -r method path key bytes flags; do
    case $flags in
    *expect*) expect="Expect: 100-continue" ;;
    *) expect="Expect:" ;;
    esac
    set -- --silent --show-error --max-time 10 --write-out '\n%{http_code}' \
        --header "X-API-Key: $key" --header "$expect"
    if [ "$method" = POST ]; then
        reply=$(head -c "$bytes" /dev/zero | curl "$@" --data-binary @- "$BASE$path")
    else
        reply=$(curl "$@" "$BASE$path")
    fi || printf 'curl failed with %d: ' "$?"
    printf '%s %s\n' "${reply##*
}" "${reply%
*}"
done
