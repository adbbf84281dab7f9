#!/bin/sh
# Joins this host to a wharf cluster. Everything is inside main: a script that was cut short does nothing.
set -eu

fail() {
    code=$1
    shift
    printf '%s\n' "$@" >&2
    exit "$code"
}

main() {
    if [ $# -lt 1 ] || [ -z "$1" ]; then
        fail 64 'x The join token is missing [E0101]' '  Paste the whole line, up to its end.'
    fi
    token=$1
    shift
    if [ "$(id -u)" -ne 0 ]; then
        fail 77 'x Joining needs root [E0115]' '  Fix: put sudo before sh in the line.'
    fi
    case $(uname -m) in
        x86_64 | amd64) arch=x86_64 ;;
        aarch64 | arm64) arch=aarch64 ;;
        *) arch=$(uname -m) ;;
    esac
    if [ "$arch" != '@ARCH@' ]; then
        fail 65 "x There is no wharf for $arch here [E0119]" '  This coordinator serves: @ARCH@.'
    fi
    no_proxy="${no_proxy:+$no_proxy,}$(printf %s '@ADDRESS@' | sed 's/:[0-9]*$//')"
    export no_proxy
    dir=$(mktemp -d)
    trap 'rm -rf "$dir"' EXIT
    curl -fsSk --pinnedpubkey '@PIN@' -o "$dir/wharf" "https://@ADDRESS@/dl/wharf-linux-$arch" ||
        fail 69 'x The wharf binary could not be fetched from @ADDRESS@ [E0114]' \
            '  If curl says 90: this line is older than the cluster. Make a new one: wharf host add.'
    echo "@SHA256@  $dir/wharf" | sha256sum -c - >/dev/null 2>&1 ||
        fail 65 'x The wharf binary arrived damaged [E0119]' '  Paste the line again.'
    chmod 755 "$dir/wharf"
    "$dir/wharf" version --client >/dev/null 2>&1 ||
        fail 69 "x The wharf binary does not run from $dir [E0119]" '  Is it mounted noexec? Try: TMPDIR=/var/tmp'
    printf '%s' "$token" | "$dir/wharf" agent install --coordinator '@ADDRESS@' --token-file - "$@"
}

main "$@"
