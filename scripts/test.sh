#!/usr/bin/env bash
# Sets everything up and runs every check, the quick ones first. A failed stage does not stop the others.
#
#   scripts/test.sh                 all stages; before the last line, "N passed, N failed", each failed test with what it said
#   scripts/test.sh --stage NAME    one of them, and what it left behind
#   scripts/test.sh --list          their names
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# Every stage is the function stage_NAME below. `leftovers` compares with the start of the run, so it comes last.
stages=(
    fmt
    clippy
    clippy-ebpf
    deny
    manifests
    unit
    model-check
    namespaces
    vm
    demo-nat
    demo-l2
    leftovers
)

# One formatter for both worlds: zdd-ebpf is a member of the workspace.
stage_fmt() { cargo fmt --all --check; }

stage_clippy() { cargo clippy --locked --workspace --exclude zdd-ebpf --all-targets -- -D warnings; }

# Apart from the workspace: there, feature unification would pull std into the no_std crates.
stage_clippy-ebpf() (
    cd zdd-ebpf
    CARGO_TARGET_DIR=$CARGO_TARGET_DIR/clippy-ebpf \
        cargo clippy --locked -Z build-std=core --target bpfel-unknown-none -- -D warnings
)

# Without advisories: see deny.toml.
stage_deny() { cargo deny --offline --locked check licenses bans sources; }

# The manifests against Kubernetes' own schemas, the unit by systemd, and what a package is made of.
stage_manifests() {
    "$tools/python/bin/kubernetes-validate" --strict "$root"/scripts/kubernetes/*.yaml
    if command -v systemd-analyze >/dev/null; then
        systemd-analyze security --offline=true --threshold=40 "$root/scripts/zdd.service"
    fi
    cargo build --locked -p zdd-agent && cargo xtask package --no-deb --binary "$CARGO_TARGET_DIR/debug/zdd"
}

stage_unit() { cargo test --locked --workspace --exclude zdd-ebpf --exclude zdd-tests --no-fail-fast; }

# The short run, with every rule taken out once; `cargo xtask model-check` explores the large worlds.
stage_model-check() { cargo xtask model-check --short; }

# The tests start the agent that lies in the target directory: one of before the last change would make them lie. Without backtraces, which
# would bury what a test says: it names the line that it stands in.
stage_namespaces() {
    cargo build --locked --package zdd-agent &&
        RUST_BACKTRACE=${ZDD_BACKTRACE:-0} cargo test --locked --package zdd-tests --no-fail-fast
}

# The kernel tests on the oldest kernel that is to be had, in an emulated machine that is ended when its time is over; `cargo xtask vm`
# takes all. Few random frames: the emulation is 10 to 30 times slower.
stage_vm() { cargo xtask vm --kernel 6.1 --frames 3000 --minutes 10; }

demo() {
    build_release
    # Less load than the demo's own: a machine that is busy otherwise must not lose packets for want of a CPU.
    "$CARGO_TARGET_DIR/release/zdd-demo" --quick --forward "$1" --long-lived 250 --rate 250 --svg "$CARGO_TARGET_DIR/demo-$1.svg"
}
stage_demo-nat() { demo nat; }
stage_demo-l2() { demo l2; }

stage_leftovers() {
    local new
    new=$(comm -13 "$before" <(remains))
    [ -z "$new" ] || {
        printf 'left behind by this run:\n%s\n' "$new"
        echo 'Something ended without its clean-up; find out what, then: ip netns del NAME, kill PID, rm -r DIRECTORY.'
        return 1
    }
}

# What a finished run must not leave: one line each, sorted. Names are zdd-<pid>-<n>...; those of a process that lives belong to
# another run on this machine, unless the process was built in this clone: then it is listed itself.
remains() {
    {
        ip netns list | cut -d' ' -f1 | grep '^zdd-' | ownerless 'namespace'
        compgen -G "${TMPDIR:-/tmp}/zdd-[0-9]*" | ownerless 'directory'
        compgen -G '/sys/fs/bpf/zdd*' | sed 's/^/pins /'
        find /proc -maxdepth 2 -path '/proc/[0-9]*/exe' -lname "$CARGO_TARGET_DIR/*" -printf 'process %h %l\n' 2>/dev/null
        # Nothing of the machine's own may change either.
        ip -o link show | sed -E 's/^[0-9]+: ([^:]*):.*/interface \1/'
        ip -o link show | sed -nE 's/^[0-9]+: ([^:]*):.* (xdp[a-z]*)[ /].*/program \1 \2/p'
        ip route show table all | sed -E 's/ expires [0-9]+sec//; s/^/route /'
    } | sort || true
}

ownerless() {
    local name pid
    while read -r name; do
        pid=$(sed -nE 's/.*zdd-([0-9]+)-.*/\1/p' <<<"$name")
        if [ -z "$pid" ] || [ ! -e "/proc/$pid" ]; then echo "$1 $name"; fi
    done
}

# ---- running them

passed=0 failed=0 ignored=0 failures=()

# Adds up what the test programs said themselves. A stage without such results counts as one, and so does one that failed
# although no test did (it did not build, or a program crashed). Test programs that ran no test at all prove nothing: failed.
count() {
    local log=$1 p f i
    read -r p f i < <(awk '/^test result: / {
            for (k = 2; k <= NF; k++) {
                if ($k == "passed;") p += $(k - 1)
                if ($k == "failed;") f += $(k - 1)
                if ($k == "ignored;") i += $(k - 1)
            }
            seen = 1
        }
        END { print (seen ? p + 0 : -1), f + 0, i + 0 }' "$log")
    if [ "$p" -lt 0 ]; then p=$((status == 0)); fi
    if [ "$status" -eq 0 ] && [ "$p" -eq 0 ]; then
        status=1
        echo 'no test ran' >>"$log"
    fi
    if [ "$status" -ne 0 ] && [ "$f" -eq 0 ]; then f=1; fi
    passed=$((passed + p)) failed=$((failed + f)) ignored=$((ignored + i))
    detail="$p passed"
    [ "$f" -eq 0 ] || detail+=", $f failed"
    [ "$i" -eq 0 ] || detail+=", $i ignored"
}

run_stage() {
    local log=$logs/test-$1.log
    logged "$1" "$log" "stage_$1"
    count "$log"
    if [ "$status" -eq 0 ]; then
        printf '%sok%s      %s (%s)\n' "$green" "$plain" "$detail" "$took"
    else
        printf '%sFAILED%s  %s (%s)\n' "$red" "$plain" "$detail" "$took"
        failures+=("$1")
        show_log "$log"
    fi
    # A test that does not run must be seen, with the reason that it gives.
    grep -aE '^test .* \.\.\. ignored' "$log" | sed 's/^/    /' || true
}

case "${1:-}" in
'') ;;
--list)
    printf '%s\n' "${stages[@]}"
    exit
    ;;
--stage)
    declare -F "stage_${2:-}" >/dev/null || die "test.sh: no stage '${2:-}'." "there are: ${stages[*]}"
    stages=("$2" leftovers)
    ;;
*) die "test.sh: unknown argument: $1" 'usage: scripts/test.sh [--stage NAME | --list]' ;;
esac

"$root/scripts/setup.sh" --tests
# Set-up has fetched everything: from here on cargo need not look at the network.
export CARGO_NET_OFFLINE=true
start=$(now_ms)
before=$(mktemp)
trap 'rm -f "$before"' EXIT
remains >"$before"
if grep -qE '^(namespace|directory|pins|process) ' "$before"; then
    echo 'there before this run, and left alone:'
    grep -E '^(namespace|directory|pins|process) ' "$before" | sed 's/^/    /'
fi

printf '%stests%s\n' "$bold" "$plain"
for stage in "${stages[@]}"; do
    run_stage "$stage"
done

# Last, because of a long log only the end may be left: what failed, each with what it said.
if [ ${#failures[@]} -gt 0 ]; then
    told=()
    for stage in "${failures[@]}"; do told+=("$stage=$logs/test-$stage.log"); done
    cargo xtask failures "${told[@]}" 2>/dev/null || tail -n 15 "${told[@]#*=}"
fi

printf 'took %s' "$(since "$start")"
[ "$ignored" -eq 0 ] || printf '; %d ignored, listed above' "$ignored"
[ ${#failures[@]} -eq 0 ] || printf '; failed: %s' "${failures[*]}"
printf '\n%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
