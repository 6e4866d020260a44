# shellcheck shell=bash
# What setup.sh, test.sh and demo.sh share: where things are, and how work is shown. Sourced, never run.
# Variables that look unused are read by those scripts:
# shellcheck disable=SC2034

set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

# The channel that a rust-toolchain.toml names. The files are the only place where compilers are pinned.
channel_of() { sed -n 's/^channel *= *"\(.*\)"/\1/p' "$1"; }

stable=$(channel_of rust-toolchain.toml)
nightly=$(channel_of zdd-ebpf/rust-toolchain.toml)
tools=$root/.tools
logs=$tools/log

# Some environments (services, cron) have no HOME; rustup and cargo need one.
export HOME=${HOME:-$(getent passwd "$(id -u)" | cut -d: -f6)}
export CARGO_HOME=${CARGO_HOME:-$HOME/.cargo}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target}
export PATH=$tools/bin:$CARGO_HOME/bin:$PATH:/usr/sbin:/sbin
# Overrides from outside would silently replace the pinned compilers; and nothing but set-up installs one.
unset RUSTUP_TOOLCHAIN
export RUSTUP_AUTO_INSTALL=0

if [ -t 1 ]; then bold=$'\e[1m' red=$'\e[31m' green=$'\e[32m' plain=$'\e[0m'; else bold='' red='' green='' plain=''; fi

# Ends the script: the first argument says what is wrong, the others what to do about it.
die() {
    printf '%s%s%s\n' "$red" "$1" "$plain" >&2
    shift
    [ $# -eq 0 ] || printf '  %s\n' "$@" >&2
    exit 1
}

now_ms() { date +%s%3N; }

# "12.3 s" since the given now_ms.
since() {
    local ms=$(($(now_ms) - $1))
    printf '%d.%d s' $((ms / 1000)) $((ms % 1000 / 100))
}

# On a terminal, shows how long a piece of work has been running and the last line it wrote. Ends with its parent.
ticker() {
    local title=$1 log=$2 start=$3 width last
    while sleep 1 && kill -0 $$ 2>/dev/null; do
        width=$(tput cols 2>/dev/null || echo 100)
        last=$(tail -c 400 "$log" | tr '\r' '\n' | tr -cd '[:print:]\n' | grep -v '^ *$' | tail -n 1) || true
        last=${last:0:$((width - 50))}
        printf '\r\e[K  %-34s %8s  %s' "$title" "$(since "$start")" "$last"
    done
}

# logged TITLE LOG COMMAND...: runs the command with its output in LOG, and sets `status` (its exit status) and `took`. It draws
# the line's beginning, the caller ends it. Never call it in a condition: bash would then ignore failures inside the command's
# functions.
logged() {
    local title=$1 log=$2 start ticker_pid=''
    shift 2
    start=$(now_ms)
    mkdir -p "$(dirname "$log")"
    : >"$log"
    printf '  %-34s ' "$title"
    if [ -t 1 ]; then
        ticker "$title" "$log" "$start" &
        ticker_pid=$!
    fi
    set +e
    (
        set -e
        "$@"
    ) >"$log" 2>&1 </dev/null
    status=$?
    set -e
    if [ -n "$ticker_pid" ]; then
        kill "$ticker_pid" 2>/dev/null || true
        wait "$ticker_pid" 2>/dev/null || true
        printf '\r\e[K  %-34s ' "$title"
    fi
    took=$(since "$start")
}

# Shows the log of something that failed, without cargo's progress and the tests that passed: all of it, unless it is very long.
show_log() {
    printf -- '----- %s\n' "$1"
    grep -vE '^ +(Compiling|Checking|Downloaded|Downloading|Fresh|Running|Finished) |^test .* ok$' "$1" | tail -n 400 || true
    printf -- '-----\n'
}

# Builds what the demo runs, optimised: target/release/{zdd,zdd-demo}.
build_release() { cargo build --locked --release --package zdd-agent --package zdd-tests; }
