#!/usr/bin/env bash
# Sets everything up, builds zdd, and shows live traffic being shifted between two versions. All of it happens in network
# namespaces of its own. Every argument goes to the demo: scripts/demo.sh --forward l2 --affinity flow; --help lists them.
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

"$root/scripts/setup.sh"
# Set-up has fetched everything: from here on cargo need not look at the network.
export CARGO_NET_OFFLINE=true
log=$logs/demo-build.log
logged 'build (the first takes minutes)' "$log" build_release
if [ "$status" -ne 0 ]; then
    printf '%sfailed (%s)%s\n' "$red" "$took" "$plain"
    show_log "$log"
    die 'zdd does not build.' 'if the sources are as they were committed, delete target/ and run the same command again.'
fi
printf '%sdone%s (%s)\n\n' "$green" "$plain" "$took"
exec "$CARGO_TARGET_DIR/release/zdd-demo" "$@"
