#!/usr/bin/env bash
# Everything that building, testing and showing zdd needs, on a Debian or Ubuntu machine that has git and curl.
#
#   scripts/setup.sh            what the demo and a build need
#   scripts/setup.sh --bench    also what `cargo xtask bench --live` compares with
#   scripts/setup.sh --tests    also what only the tests need, the former included
#
# Idempotent: each step first looks whether its result is there, by asking the thing itself, and does nothing if so; then no
# network is needed. Starts no service, changes no network setting, mounts nothing. Outside this clone it adds Debian packages,
# rustup with two toolchains, and cargo's download cache.
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

bpf_linker=0.13.0
cargo_deny=0.20.2
python_packages=(kubernetes-validate==1.37.0 grpcio==1.85.1 grpcio-reflection==1.85.1 flask==3.1.3 redis==8.1.0
    'psycopg[binary]==3.3.9')

tests=no
bench=no
case "${*:-}" in
'') ;;
--bench) bench=yes ;;
--tests) tests=yes bench=yes ;;
*) die "setup.sh: unknown argument: $*" 'usage: scripts/setup.sh [--bench | --tests]' ;;
esac

# Command (or file) that must be there, and the package that brings it.
packages=(cc:gcc /usr/include/stdio.h:libc6-dev ip:iproute2 ethtool:ethtool nsenter:util-linux pgrep:procps
    curl:curl /etc/ssl/certs/ca-certificates.crt:ca-certificates)
bench_packages=(nginx:nginx haproxy:haproxy iperf3:iperf3 wrk:wrk nft:nftables)
test_packages=(redis-server:redis-server redis-cli:redis-tools pg_lsclusters:postgresql prometheus:prometheus tshark:tshark
    chromium:chromium chromedriver:chromium-driver
    prometheus-alertmanager:prometheus-alertmanager /usr/share/doc/python3-venv:python3-venv faketime:faketime
    strace:strace runc:runc /usr/share/containers/seccomp.json:golang-github-containers-common)
[ "$bench" = no ] || packages+=("${bench_packages[@]}")
[ "$tests" = no ] || packages+=("${test_packages[@]}")

# ensure TITLE HAVE GET HINT...: unless HAVE says that it is there, runs GET and looks again. One line per step.
ensure() {
    local title=$1 have=$2 get=$3 start log
    shift 3
    start=$(now_ms)
    if "$have" >/dev/null 2>&1; then
        printf '  %-34s there (%s)\n' "$title" "$(since "$start")"
        return
    fi
    log=$logs/setup-$get.log
    logged "$title" "$log" "$get"
    if [ "$status" -ne 0 ]; then
        printf '%sfailed (%s)%s\n' "$red" "$took" "$plain"
    elif ! "$have" >>"$log" 2>&1; then
        printf '%snot usable after %s%s\n' "$red" "$took" "$plain"
        echo "'$get' ended without an error, but '$have' still does not find it." >>"$log"
    else
        printf '%sdone%s (%s)\n' "$green" "$plain" "$took"
        return
    fi
    show_log "$log"
    die "set-up stopped at: $title" "$@" 'then run the same command again: it goes on where it stopped.'
}

# ---- Debian packages

missing_packages() {
    local entry
    for entry in "${packages[@]}"; do
        case $entry in
        /*) [ -s "${entry%%:*}" ] || echo "${entry##*:}" ;;
        *) command -v "${entry%%:*}" >/dev/null || echo "${entry##*:}" ;;
        esac
    done
}

have_packages() { [ -z "$(missing_packages)" ]; }

policy=/usr/sbin/policy-rc.d
policy_saved=$policy.before-zdd-setup

# While the calling (sub)shell lives, packages may start or restart nothing: it is apt's parent, so it lives as long as apt does,
# also when the script above it is killed. A guard that is left behind allows everything again (or asks the policy that was there
# before), and the next run removes it.
guard_services() {
    local shell=$BASHPID
    unguard_services
    if [ -e "$policy" ] || [ -L "$policy" ]; then mv "$policy" "$policy_saved"; fi
    cat >"$policy" <<EOF
#!/bin/sh
# zdd-setup-guard: forbids service starts while process $shell installs packages; safe to delete.
kill -0 $shell 2>/dev/null && exit 101
[ -x $policy_saved ] && exec $policy_saved "\$@"
exit 0
EOF
    chmod 755 "$policy"
}

unguard_services() {
    if grep -q zdd-setup-guard "$policy" 2>/dev/null; then rm -f "$policy"; fi
    if [ -e "$policy_saved" ] || [ -L "$policy_saved" ]; then mv "$policy_saved" "$policy"; fi
}

install_packages() {
    local missing services=() service
    mapfile -t missing < <(missing_packages)
    echo "to install: ${missing[*]}"
    guard_services
    # Lists of unrelated sources may fail to refresh; whether ours can be installed is what counts.
    apt-get update -q || echo 'apt-get update failed; trying with the package lists that are there'
    # needrestart (Ubuntu) would restart running services after an installation.
    DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 \
        apt-get install -q -y --no-install-recommends -o DPkg::Lock::Timeout=120 "${missing[@]}"
    # The tests start their own servers; what was installed for them must not run after the next boot either.
    for service in nginx haproxy redis-server postgresql prometheus prometheus-alertmanager; do
        case " ${missing[*]} " in *" $service "*) services+=("$service") ;; esac
    done
    for service in "${services[@]}"; do
        update-rc.d "$service" disable
    done
    unguard_services
}

# ---- Rust

have_rustup() { rustup --version; }

install_rustup() {
    local script url
    script=$(mktemp)
    # The first address redirects to the second, which is also the one that toolchains come from.
    for url in https://sh.rustup.rs https://static.rust-lang.org/rustup/rustup-init.sh; do
        echo "fetching $url"
        if curl --proto '=https' --tlsv1.2 -fsSL --retry 2 --connect-timeout 15 -o "$script" "$url"; then
            sh "$script" -y --no-modify-path --default-toolchain none --profile minimal && rm -f "$script" && return
        fi
    done
    rm -f "$script"
    echo "rustup's own installer is not to be had; trying the distribution's package"
    apt-get update -q || true
    DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 apt-get install -q -y --no-install-recommends rustup
}

sysroot_of() { rustc "+$1" --print sysroot; }

have_toolchain() {
    local dir
    # Asked first, because an old rustup would install a missing toolchain when its compiler is called.
    rustup toolchain list | grep "^$1-" && dir=$(sysroot_of "$1") &&
        [ -e "$dir/lib/rustlib/src/rust/library/core/Cargo.toml" ] &&
        [ -x "$dir/bin/cargo" ] && [ -x "$dir/bin/clippy-driver" ] && [ -x "$dir/bin/rustfmt" ]
}
get_toolchain() {
    rustup toolchain install "$1" --profile minimal -c rust-src -c clippy -c rustfmt --no-self-update
}
have_stable() { have_toolchain "$stable"; }
have_nightly() { have_toolchain "$nightly"; }
install_stable() { get_toolchain "$stable"; }
install_nightly() { get_toolchain "$nightly"; }

# ---- tools of this clone

# cargo_tool NAME VERSION OPTIONS...: builds a command into .tools; what only the build needed is removed.
cargo_tool() {
    local name=$1 version=$2 build=$CARGO_TARGET_DIR/tools
    shift 2
    cargo "+$stable" install "$name" --version "=$version" --locked --force --root "$tools" --target-dir "$build" "$@"
    rm -rf "$build"
}

# bpf-linker uses the LLVM that comes with the nightly, through this directory, whose path is built into it: it must stay.
llvm=$tools/llvm

have_bpf_linker() {
    local lib
    lib=$(readlink -e "$llvm/lib/libLLVM.so") || return
    case $lib in "$(sysroot_of "$nightly")"/*) ;; *) return 1 ;; esac
    # Running it proves that it still finds that library, also after the clone has been moved.
    [ "$("$tools/bin/bpf-linker" --version)" = "bpf-linker $bpf_linker" ]
}

build_bpf_linker() {
    local lib major
    lib=$(compgen -G "$(sysroot_of "$nightly")/lib/libLLVM.so.*" | head -n 1)
    major=$(rustc "+$nightly" -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
    rm -rf "$llvm"
    mkdir -p "$llvm/lib"
    ln -s "$lib" "$llvm/lib/libLLVM.so"
    ln -s "$lib" "$llvm/lib/$(basename "$lib")"
    LLVM_PREFIX=$llvm cargo_tool bpf-linker "$bpf_linker" --no-default-features --features "llvm-$major"
}

have_cargo_deny() { [ "$("$tools/bin/cargo-deny" --version)" = "cargo-deny $cargo_deny" ]; }

# Not optimised: it runs for a second, and building it so takes half the time.
build_cargo_deny() {
    CARGO_PROFILE_DEV_DEBUG=0 cargo_tool cargo-deny "$cargo_deny" --debug --no-default-features
}

# ---- a Python environment of this clone: schemas of Kubernetes, a gRPC client of another language, and an application for the tests to break

have_python_packages() {
    "$tools/python/bin/python" - "${python_packages[@]}" <<'EOF'
import re, sys
from importlib.metadata import version

for package in sys.argv[1:]:
    name, wanted = re.sub(r"\[.*\]", "", package).split("==")
    there = version(name)
    assert there == wanted, f"{name} is {there}, not {wanted}"
EOF
}
install_python_packages() {
    # Debian's own: another one on the path may lack what pip needs.
    /usr/bin/python3 -m venv --clear "$tools/python" && "$tools/python/bin/pip" install -q "${python_packages[@]}"
}

# ---- crates

# Both worlds: the workspace, and what `core` itself needs when it is built for the BPF target.
crates() {
    cargo fetch --locked "$@" &&
        (cd zdd-ebpf && cargo fetch --locked -Z build-std=core --target bpfel-unknown-none "$@")
}
have_crates() { crates --offline; }
fetch_crates() { crates; }

# ---- kernels, and an emulator to boot them in; unpacked below the target directory, not installed

have_kernels() {
    compgen -G "$CARGO_TARGET_DIR/vm/linux-image-*/.unpacked" && return
    # A distribution that has none: the stage says what it left out.
    ! apt-cache pkgnames linux-image-6. | grep -e '-cloud-amd64$'
}

fetch_kernels() {
    apt-get update -q || echo 'apt-get update failed; trying with the package lists that are there'
    cargo xtask vm --fetch
}

# ---- the machine

[ "$(id -u)" = 0 ] || die 'zdd needs root: it makes network namespaces and loads eBPF programs.' \
    'run the same command with sudo.'
command -v apt-get >/dev/null || die 'this set-up knows Debian and Ubuntu only (there is no apt-get here).' \
    "elsewhere: install ${packages[*]##*:} ${bench_packages[*]##*:} ${test_packages[*]##*:}," \
    'and read this script for the toolchains and bpf-linker.'
release=$(uname -r)
printf '%s\n5.15\n' "$release" | sort -VC && die "the kernel is $release; zdd needs 5.15 or newer." 'boot a newer kernel.'

mkdir -p "$tools" "$logs"
# Two at a time would build the same tools twice and quarrel about apt's lock.
exec 9>"$tools/lock"
flock -n 9 || { echo 'another set-up of this clone is running; waiting for it' && flock 9; }
trap unguard_services EXIT

start=$(now_ms)
printf '%sset-up%s of %s\n' "$bold" "$plain" "$root"
net_hint='is the network reachable, through a proxy if one is needed (https_proxy, and its certificate in /etc/ssl/certs)?'
ensure 'Debian packages' have_packages install_packages "$net_hint" \
    'if apt is at fault: apt-get update && apt-get -f install, and look at /etc/apt/sources.list*.'
ensure 'rustup' have_rustup install_rustup "$net_hint" \
    'or install rustup by hand: https://rustup.rs, or the Debian package rustup where there is one.'
rust_hint='if https://static.rust-lang.org is out of reach, name a mirror of it in RUSTUP_DIST_SERVER.'
ensure "Rust $stable" have_stable install_stable "$net_hint" "$rust_hint"
ensure "Rust $nightly" have_nightly install_nightly "$net_hint" "$rust_hint"
crates_hint='crates come from https://index.crates.io and https://static.crates.io; a mirror goes into ~/.cargo/config.toml.'
ensure 'crates' have_crates fetch_crates "$net_hint" "$crates_hint" \
    'if the log says that the lock file needs an update: cargo update --workspace, and commit Cargo.lock.'
ensure "bpf-linker $bpf_linker" have_bpf_linker build_bpf_linker "$net_hint" "$crates_hint"
[ "$tests" = no ] || ensure 'kernels to test on' have_kernels fetch_kernels "$net_hint" \
    'they are packages of Debian: linux-image-6.1.*-cloud-amd64 and linux-image-6.12.*-cloud-amd64 (backports, or Debian 13).'
[ "$tests" = no ] || ensure 'Python packages' have_python_packages install_python_packages \
    "$net_hint" 'it comes from https://pypi.org.'
[ "$tests" = no ] || ensure "cargo-deny $cargo_deny" have_cargo_deny build_cargo_deny "$net_hint" "$crates_hint"
printf '%sset-up complete%s (%s)\n' "$green" "$plain" "$(since "$start")"
