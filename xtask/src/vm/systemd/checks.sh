#!/bin/bash
# Runs in the machine, as root, under its systemd: the package from its installation to its purge, with connections that live through all of it.
# Lines as a test program's, so that whoever counts those counts these.
set -u
passed=0 failed=0

# check NAME COMMAND...: one line; of a failure also what was said.
check() {
    local name=$1
    shift
    if ("$@") >/tmp/said 2>&1; then
        echo "test $name ... ok"
        passed=$((passed + 1))
    else
        echo "test $name ... FAILED"
        sed 's/^/    /' /tmp/said
        journalctl --unit zdd --lines 15 --no-pager --output cat | sed 's/^/    journal: /'
        failed=$((failed + 1))
    fi
}

# until COMMAND...: waits until it succeeds, as long as a slow machine may need.
until_so() {
    local end=$((SECONDS + 120))
    until "$@" >/tmp/last 2>&1; do
        if [ $SECONDS -gt $end ]; then
            echo "never so: $*"
            cat /tmp/last
            return 1
        fi
        sleep 0.3
    done
}

property() { systemctl show --property "$1" --value zdd; }
pid() { property MainPID; }
asked() { zdd status --json | tr -d ' \n' | grep -q "\"asked\":$1"; }
answers() { zdd status >/dev/null; }
active() { [ "$(property ActiveState)/$(property SubState)" = active/running ] && answers; }
# replaced OLD: another process than OLD runs, and is ready.
replaced() { active && [ "$(pid)" != "$1" ]; }
# What the clients have to say grows, and nothing of it is bad.
lively() {
    local before after
    before=$(cat /tmp/lines)
    until_so more_than "$before" || return
    after=$(cat /tmp/troubles)
    [ -z "$after" ] || { echo "$after"; return 1; }
}
more_than() { [ "$(cat /tmp/lines)" -gt "$(($1 + 20))" ]; }

network() {
    insmod /root/veth.ko
    for end in c s; do
        ip netns add $end
        ip link add z${end}0 type veth peer name eth0 netns $end
        ip link set z${end}0 up
        ip -n $end link set eth0 up
        ip -n $end link set lo up
        ip netns exec $end ethtool -K eth0 gro on tx off >/dev/null
    done
    ip addr add 192.0.2.1/24 dev zc0
    ip addr add 10.1.0.254/24 dev zs0
    ip addr add 10.0.0.10/32 dev lo
    ip -n c addr add 192.0.2.2/24 dev eth0
    ip -n c route add default via 192.0.2.1
    for n in 1 2 3; do ip -n s addr add 10.1.0.$n/24 dev eth0; done
    ip -n s route add default via 10.1.0.254
    sysctl -q -w net.ipv4.ip_forward=1 net.ipv4.conf.all.accept_local=1 net.ipv4.conf.all.rp_filter=2
    sysctl -q -w net.ipv4.conf.zc0.rp_filter=2 net.ipv4.conf.zs0.rp_filter=2
    ip netns exec s python3 /root/connections.py serve 10.1.0.1 10.1.0.2 10.1.0.3 &
}

# configuration WEIGHT_OF_V2
configuration() {
    cat >/etc/zdd/zdd.toml <<END
[agent]
interfaces = ["zc0", "zs0"]
page = "127.0.0.1:9178"
[[service]]
name = "web"
vip = "10.0.0.10:80/tcp"
forward = "nat"
affinity = "flow"
health = { tcp = true, interval = "5s", timeout = "5s" }
[[service.version]]
name = "v1"
weight = $((100 - $1))
backends = ["10.1.0.1:8080", "10.1.0.2:8080"]
[[service.version]]
name = "v2"
weight = $1
backends = ["10.1.0.3:8080"]
END
}

installed() {
    dpkg -i /root/zdd.deb || return
    [ "$(systemctl is-enabled zdd)/$(systemctl is-active zdd)" = disabled/inactive ]
}

no_word_against_the_unit() {
    local said
    said=$(systemd-analyze verify zdd.service 2>&1)
    echo "$said"
    [ -z "$said" ]
}

ready() {
    configuration 0
    zdd doctor --config /etc/zdd/zdd.toml
    systemctl enable --now zdd || return
    # Type=notify: whoever waited for the start finds an agent that answers.
    answers || return
    [ "$(property Type)/$(property StatusText)" = notify/ready ]
}

healthy() { ! zdd status --json | grep -qE '"(unhealthy|unknown)"'; }

connected() {
    until_so healthy || return
    ip netns exec c python3 /root/connections.py dial 10.0.0.10 80 /tmp/lines /tmp/troubles &
    until_so test -s /tmp/lines
    lively
}

hardened() {
    local at word
    at=$(pid)
    for word in 'NoNewPrivs:\s1' 'Seccomp:\s2' 'CapEff:\s000000c000001000' 'CapBnd:\s000000c000001000'; do
        grep -qP "^$word" /proc/$at/status || { grep -E 'Cap|NoNew|Secc' /proc/$at/status; return 1; }
    done
    # What it sees of the file system: nothing to write but its socket, its state and its pins.
    for place in /usr/bin /etc /etc/zdd /root /boot /var/log /proc/sys/net; do
        if nsenter --mount --target "$at" touch "$place/zdd-was-here"; then return 1; fi
    done
    ls /run/zdd/zdd.sock /var/lib/zdd/state.json /sys/fs/bpf/zdd/links
}

exposure() {
    systemd-analyze security --no-pager zdd | tail -n 1 >/tmp/exposure
    systemd-analyze security --no-pager --threshold=20 zdd | tail -n 3
}

reloaded() {
    local was
    was=$(pid)
    configuration 50
    systemctl reload zdd || return
    asked 0.5 || { zdd status; return 1; }
    [ "$(pid)" = "$was" ]
}

bad_reload_is_refused() {
    local was
    was=$(pid)
    echo 'nonsense = 1' >>/etc/zdd/zdd.toml
    if systemctl reload zdd; then return 1; fi
    journalctl --unit zdd --lines 20 --no-pager | grep -q nonsense || return
    configuration 50
    active && [ "$(pid)" = "$was" ]
}

hang_up_ends_nothing() {
    local was
    was=$(pid)
    kill -HUP "$was"
    until_so sh -c 'journalctl --unit zdd --no-pager --output cat | grep -q "systemctl reload zdd"' || return
    active && [ "$(pid)" = "$was" ] && lively
}

restarted() {
    local was
    was=$(pid)
    systemctl restart zdd || return
    replaced "$was" && asked 0.5 && lively
}

killed() {
    local was
    was=$(pid)
    systemctl kill --signal=KILL zdd
    until_so replaced "$was" || return
    [ "$(property NRestarts)" = 1 ] && asked 0.5 && lively
}

hung() {
    local was
    mkdir -p /run/systemd/system/zdd.service.d
    printf '[Service]\nWatchdogSec=10\nTimeoutAbortSec=3\n' >/run/systemd/system/zdd.service.d/short.conf
    systemctl daemon-reload
    systemctl restart zdd || return
    was=$(pid)
    # While it works it is left alone for longer than the watchdog's time.
    sleep 15
    [ "$(pid)" = "$was" ] || return
    kill -STOP "$was"
    until_so replaced "$was" || return
    journalctl --unit zdd --no-pager | grep -q 'Watchdog timeout' || return
    rm -r /run/systemd/system/zdd.service.d
    systemctl daemon-reload
    lively
}

# A configuration that does not start is tried again until somebody mends it; traffic goes on meanwhile.
mended() {
    local tries
    echo 'nonsense = 1' >>/etc/zdd/zdd.toml
    if systemctl restart zdd; then return 1; fi
    tries=$(property NRestarts)
    until_so sh -c "[ \$(systemctl show --property NRestarts --value zdd) -gt $((tries + 1)) ]" || return
    lively || return
    configuration 50
    until_so active && lively
}

upgraded() {
    local was
    was=$(pid)
    dpkg -i --force-confold /root/zdd.deb || return
    until_so replaced "$was" && asked 0.5 && lively
}

bundled() {
    rm -f /tmp/bundle.tar.gz
    zdd support-bundle /tmp/bundle.tar.gz || return
    tar -tzf /tmp/bundle.tar.gz | grep -q journal.txt
}

removed() {
    dpkg -r zdd || return
    [ ! -e /usr/bin/zdd ] && [ -e /sys/fs/bpf/zdd/links ] || return
    lively
}

# The program is attached: what it does to whom stays known, and the way out is said.
purged_too_early() {
    dpkg -P zdd || return
    [ -e /var/lib/zdd/state.json ] && [ ! -e /etc/zdd ] && lively
}

nothing_left() {
    dpkg -i /root/zdd.deb || return
    configuration 50
    systemctl enable --now zdd || return
    lively || return
    zdd detach || return
    until_so sh -c '[ "$(systemctl is-active zdd)" = inactive ]' || return
    install /usr/bin/zdd /root/zdd
    dpkg -P zdd || return
    local left
    left=$(find / -xdev \( -path /proc -o -path /sys -o -path /root -o -path /var/log -o -path /tmp \) -prune -o -name '*zdd*' -print)
    left+=$(find /run /sys/fs/bpf -name '*zdd*' -print)
    left+=$(ip -o link | grep -o 'prog/xdp.*')
    echo "$left"
    # The script's own unit is not the package's.
    [ -z "$(grep -v 'zdd-checks' <<<"$left")" ]
}

# The README's own lines, from a directory with zdd.toml and scripts/ as a clone has them.
by_hand() {
    cd /root/clone || return
    install /root/zdd /usr/local/bin/
    hash -r
    bash -e keep-it-running.sh || return
    answers || return
    [ "$(property FragmentPath)" = /etc/systemd/system/zdd.service ]
}

undone() {
    cd /root/clone || return
    # Not all lines have something to do: one is for agents that run, one for those that do not.
    bash undo-everything.sh
    rm /etc/systemd/system/zdd.service /usr/local/bin/zdd
    local left
    left=$(ls -d /sys/fs/bpf/zdd /var/lib/zdd /run/zdd /etc/systemd/system/multi-user.target.wants/zdd.service 2>/dev/null)
    left+=$(ip -o link | grep -o 'prog/xdp.*')
    left+=$(ip -o addr show to 10.0.0.10)
    echo "$left"
    [ -z "$left" ]
}

echo "zdd-vm-kernel $(uname -r), $(systemctl --version | head -n 1)"
: >/tmp/troubles
echo 0 >/tmp/lines
check network network
check the_package_is_installed_and_starts_nothing installed
check systemd_has_no_word_against_the_unit no_word_against_the_unit
check a_start_returns_when_the_agent_is_ready ready
check clients_are_served connected
check it_has_no_more_rights_than_it_needs hardened
check systemd_calls_its_exposure_low exposure
check a_reload_applies_the_file reloaded
check a_reload_of_a_bad_file_is_refused bad_reload_is_refused
check a_hang_up_ends_nothing hang_up_ends_nothing
check a_restart_breaks_no_connection restarted
check a_killed_agent_is_started_again killed
check a_hung_agent_is_started_again hung
check a_bad_file_at_the_start_breaks_no_connection mended
check an_upgrade_breaks_no_connection upgraded
check a_support_bundle_holds_the_journal bundled
check a_removal_breaks_no_connection removed
check a_purge_of_an_attached_program_keeps_its_state purged_too_early
check a_purge_leaves_nothing nothing_left
check the_readme_installs_it_by_hand by_hand
check the_readme_undoes_everything undone
echo "zdd-vm-note: $(cat /tmp/lines) lines were exchanged; $(cat /tmp/exposure)"
echo "test result: $([ $failed = 0 ] && echo ok || echo FAILED). $passed passed; $failed failed;"
echo "zdd-vm-end $failed"
systemctl --force --force poweroff
