//! Mistakes that show when several values are looked at together.

use super::*;

#[test]
fn backends() {
    let backend = |text: &str| changed("\"10.1.0.1:8080\"", text);
    insta::assert_snapshot!(backend("\"10.1.0.1\""), @r"
    zdd.toml:9:13: `backends`: `10.1.0.1` has no port
    help: write 10.1.0.1:PORT
    ");
    insta::assert_snapshot!(backend("\"10.1.0.1:0\", \"0.0.0.0:80\", \"224.0.0.1:80\", \"127.0.0.1:80\", \"255.255.255.255:80\""), @r#"
    zdd.toml:9:13: backend 10.1.0.1:0 has no port of its own, and the VIP 10.0.0.10:80/tcp does not have all ports
    help: write "10.1.0.1:80"
    zdd.toml:9:27: 0.0.0.0:80 cannot be a backend: it is the unspecified address
    help: write the address and port on which the backend listens, as this host reaches it
    zdd.toml:9:41: 224.0.0.1:80 cannot be a backend: it is a multicast address
    help: write the address and port on which the backend listens, as this host reaches it
    zdd.toml:9:57: 127.0.0.1:80 cannot be a backend: it is a loopback address, and packets to it never pass an interface
    help: write the address and port on which the backend listens, as this host reaches it
    zdd.toml:9:73: 255.255.255.255:80 cannot be a backend: it is the broadcast address
    help: write the address and port on which the backend listens, as this host reaches it
    "#);
    insta::assert_snapshot!(backend("\"[2001:db8::2]:8080\", \"[::ffff:10.1.0.1]:8080\", \"[fe80::1]:8080\""), @r#"
    zdd.toml:9:13: backend [2001:db8::2]:8080 is IPv6, the VIP 10.0.0.10:80/tcp is IPv4
    help: write a backend of the VIP's family, or name a VIP of each, as vip = ["10.0.0.10:80/tcp", "[2001:db8::10]:80/tcp"]; forward = "ipip" carries IPv4 over IPv6
    zdd.toml:9:35: [::ffff:10.1.0.1]:8080 cannot be a backend: it is an IPv4 address written as IPv6
    help: write the address and port on which the backend listens, as this host reaches it
    zdd.toml:9:35: backend [::ffff:10.1.0.1]:8080 is IPv6, the VIP 10.0.0.10:80/tcp is IPv4
    help: write a backend of the VIP's family, or name a VIP of each, as vip = ["10.0.0.10:80/tcp", "[2001:db8::10]:80/tcp"]; forward = "ipip" carries IPv4 over IPv6
    zdd.toml:9:61: [fe80::1]:8080 cannot be a backend: it is a link-local address, and those are for one link only: nothing is forwarded from them
    help: write the address and port on which the backend listens, as this host reaches it
    zdd.toml:9:61: backend [fe80::1]:8080 is IPv6, the VIP 10.0.0.10:80/tcp is IPv4
    help: write a backend of the VIP's family, or name a VIP of each, as vip = ["10.0.0.10:80/tcp", "[2001:db8::10]:80/tcp"]; forward = "ipip" carries IPv4 over IPv6
    "#);
    insta::assert_snapshot!(backend("8080, { weight = 2 }, { address = \"10.1.0.1:80\", weight = 1001 }"), @r#"
    zdd.toml:9:13: `backends` is of type integer
    help: write "10.1.0.1:8080" or { address = "10.1.0.1:8080", weight = 2 }
    zdd.toml:9:19: `address` is missing in a backend
    help: write { address = "10.1.0.1:8080", weight = 2 }
    zdd.toml:9:71: `weight` is 1001, out of range
    help: choose 1 to 1000
    "#);
    insta::assert_snapshot!(backend("\"10.1.0.1:8080\", \"10.1.0.1:8080\""), @"
    zdd.toml:9:30: backend 10.1.0.1:8080 is twice in version `v1`
    help: remove one of them; give it a weight if it should get more
    ");
    insta::assert_snapshot!(backend("\"10.2.0.1:8080\""), @"
    zdd.toml:12:13: backend 10.2.0.1:8080 is in version `v1` of service `web` already
    help: an address and port runs one version; start the other one on a port of its own
    ");
    insta::assert_snapshot!(backend("\"10.0.0.10:80\""), @"
    zdd.toml:9:13: backend 10.0.0.10:80 is the VIP of service `web`
    help: a packet would go round in circles: name the backend's own address
    ");
    insta::assert_snapshot!(changed("\"nat\"", "\"l2\""), @r#"
    zdd.toml:9:13: backend 10.1.0.1:8080 has another port than the VIP 10.0.0.10:80/tcp under l2
    help: l2 does not rewrite ports: write port 80, or use forward = "nat"
    zdd.toml:12:13: backend 10.2.0.1:8080 has another port than the VIP 10.0.0.10:80/tcp under l2
    help: l2 does not rewrite ports: write port 80, or use forward = "nat"
    "#);
}

#[test]
fn an_idle_timeout_that_counts_for_longer_or_not_at_all_is_told() {
    let told = |line: &str, from: &str, to: &str| {
        let text = BASE.replacen("forward = \"nat\"\n", &format!("forward = \"nat\"\n{line}\n"), 1);
        let (_, warnings) = valid(&text.replacen(from, to, 1));
        warnings.into_iter().filter(|warning| warning.contains("idle_timeout")).collect::<Vec<_>>().join("\n")
    };
    let (tcp, udp) = ("80/tcp", "80/udp");
    insta::assert_snapshot!(told("idle_timeout = \"5s\"", tcp, tcp), @"zdd.toml:3:1: idle_timeout of service `web` (5s) counts as 1m 43s: no entry lives shorter than a half-open one, which is what agent.syn_memory (1m 4s) asks for");
    insta::assert_snapshot!(told("udp_idle_timeout = \"5s\"", tcp, tcp), @"zdd.toml:7:20: `udp_idle_timeout` counts for udp only: this service carries tcp");
    insta::assert_snapshot!(told("idle_timeout = \"5s\"", tcp, udp), @"zdd.toml:7:16: `idle_timeout` counts for tcp only: this service carries udp");
    assert_eq!(told("udp_idle_timeout = \"5s\"", tcp, udp), "");
    assert_eq!(told("idle_timeout = \"104s\"", tcp, tcp), "");
    let memory = "[\"eth0\"]\nsyn_memory = \"2s\"";
    assert_eq!(told("idle_timeout = \"5s\"", "[\"eth0\"]", memory), "", "a handshake is over sooner");
}

/// [`BASE`] with a VIP of each family, and these backends more in v1 and v2.
fn both(vips: &str, v1: &str, v2: &str) -> String {
    BASE.replace("\"10.0.0.10:80/tcp\"", vips)
        .replace("\"10.1.0.1:8080\"", &format!("\"10.1.0.1:8080\"{v1}"))
        .replace("\"10.2.0.1:8080\"", &format!("\"10.2.0.1:8080\"{v2}"))
}

#[test]
fn two_vips_are_the_two_families_of_one_service() {
    const BOTH: &str = "[\"[2001:db8::10]:80/tcp\", \"10.0.0.10:80/tcp\"]";
    let (v1, v2) = (", \"[2001:db8::11]:8080\"", ", \"[2001:db8::12]:8080\"");
    let (desired, _) = valid(&both(BOTH, v1, v2));
    assert_eq!(desired.services[0].dialled(), "10.0.0.10:80/tcp, [2001:db8::10]:80/tcp");
    insta::assert_snapshot!(mistakes(&both(BOTH, v1, "")), @"
    zdd.toml:10:1: version `v2` of service `web` has no IPv6 backend for the VIP [2001:db8::10]:80/tcp
    help: add one, so that its weight means the same for both families, or make a service of its own for this VIP
    ");
    insta::assert_snapshot!(mistakes(&both("[\"10.0.0.10:80/tcp\", \"10.0.0.11:80/tcp\"]", "", "")), @"
    zdd.toml:5:28: service `web` has two IPv4 VIPs
    help: a service has one VIP, or one of each address family; make a second service for the other one
    ");
    insta::assert_snapshot!(mistakes(&both("[\"10.0.0.10:80/tcp\", \"[2001:db8::10]:80/udp\"]", v1, v2)), @"
    zdd.toml:5:28: 10.0.0.10:80/tcp and [2001:db8::10]:80/udp are of two protocols
    help: make a service for each protocol: their flows end in different ways
    ");
    insta::assert_snapshot!(mistakes(&both("[\"10.0.0.10:80/tcp\", \"10.0.0.10:80/tcp\"]", "", "")), @"
    zdd.toml:5:28: VIP 10.0.0.10:80/tcp belongs to service `web` already
    help: give each service an address, port or protocol of its own, or put the versions into one service
    ");
    insta::assert_snapshot!(mistakes(&both("[]", "", "")), @"
    zdd.toml:5:7: `vip` is empty in service `web`
    help: name at least one
    ");
    insta::assert_snapshot!(mistakes(&both("[80]", "", "")), @"
    zdd.toml:5:8: `vip` is of type integer
    help: write a string in quotes, or an array of them
    ");
    // Each VIP has rows of its own.
    let limited = both(BOTH, v1, v2).replace("[\"eth0\"]", "[\"eth0\"]\nlimits = { cells = 40000 }");
    insta::assert_snapshot!(mistakes(&limited), @"
    zdd.toml:4:1: the services need 65536 cells (a row for each VIP, each of its cohorts and each preview VIP, and spare ones of each size), agent.limits.cells = 40000
    help: raise agent.limits.cells to at least 65536 (8 bytes each), or lower `cells` of a service
    ");
}

#[test]
fn ipip_carries_ipv4_over_either_family_and_ipv6_over_ipv6_only() {
    let with = |vip: &str, backend: &str| {
        BASE.replace("nat", "ipip")
            .replace("10.0.0.10:80", vip)
            .replace("10.1.0.1:8080", backend)
            .replace("10.2.0.1:8080", "[fd00::2]:80")
    };
    valid(&with("10.0.0.10:80", "10.1.0.1:80"));
    valid(&with("[2001:db8::10]:80", "[fd00::1]:80"));
    insta::assert_snapshot!(mistakes(&with("[2001:db8::10]:80", "10.1.0.1:80")), @"
    zdd.toml:9:13: backend 10.1.0.1:80 is IPv4, the VIP [2001:db8::10]:80/tcp is IPv6: ipip carries no IPv6 over IPv4
    help: name the backend's IPv6 address
    ");
    insta::assert_snapshot!(mistakes(&with("10.0.0.10:80", "[fd00::1]:8080")), @r#"
    zdd.toml:9:13: backend [fd00::1]:8080 has another port than the VIP 10.0.0.10:80/tcp under ipip
    help: ipip does not rewrite ports: write port 80, or use forward = "nat"
    "#);
    // A version of another mode is judged by its own.
    let l2 =
        with("10.0.0.10:80", "[fd00::1]:80").replacen("name = \"v1\"", "name = \"v1\"\nforward = \"l2\"", 1);
    insta::assert_snapshot!(mistakes(&l2), @r#"
    zdd.toml:10:13: backend [fd00::1]:80 is IPv6, the VIP 10.0.0.10:80/tcp is IPv4
    help: write a backend of the VIP's family, or name a VIP of each, as vip = ["10.0.0.10:80/tcp", "[2001:db8::10]:80/tcp"]; forward = "ipip" carries IPv4 over IPv6
    "#);
}

#[test]
fn sources_of_outer_headers() {
    let agent = |line: &str| BASE.replace("[\"eth0\"]", &format!("[\"eth0\"]\n{line}"));
    let (desired, _) = valid(&agent("encap_source = \"192.0.2.9/32\"\nencap_source6 = \"2001:db8:9::/48\""));
    assert_eq!(desired.agent.encap.v4.to_string(), "192.0.2.9/32");
    assert_eq!(desired.agent.encap.v6.to_string(), "2001:db8:9::/48");
    for line in [
        "encap_source = \"fd00::/64\"",
        "encap_source6 = \"10.255.0.0/16\"",
        "encap_source = \"224.0.0.0/8\"",
        "encap_source = \"0.0.0.0/0\"",
        "encap_source = \"10.255.1.0/16\"",
    ] {
        let told = with_agent(line);
        assert!(told.starts_with("zdd.toml:3:"), "{line}: {told}");
    }
}

#[test]
fn a_policy_for_udp_is_for_udp() {
    let policy =
        |policy: &str| BASE.to_owned() + &SECOND.replace("\"nat\"", &format!("\"nat\"\nudp = \"{policy}\""));
    assert_eq!(valid(&policy("now")).0.services[1].udp, crate::desired::UdpPolicy::Now);
    assert_eq!(valid(&policy("stick")).0.services[1].udp, crate::desired::UdpPolicy::Stick);
    insta::assert_snapshot!(mistakes(&policy("move")), @r#"
    zdd.toml:17:7: `udp`: `move` is no policy
    help: write "stick" or "now"
    "#);
    insta::assert_snapshot!(with("udp = \"now\""), @"
    zdd.toml:7:7: `udp` means nothing to 10.0.0.10:80/tcp
    help: remove it: TCP flows always stay where they began
    ");
}

#[test]
fn sources_of_outer_headers_are_nobodys() {
    let text = BASE.replace("10.1.0.1:8080", "10.255.0.1:80").replace("10.2.0.1:8080", "10.2.0.1:80");
    valid(&text);
    insta::assert_snapshot!(mistakes(&text.replace("nat", "ipip")), @"
    zdd.toml:9:13: 10.255.0.1 lies in 10.255.0.0/16, where outer headers of ipip come from
    help: set agent.encap_source (agent.encap_source6) to a prefix that nobody uses
    ");
}

#[test]
fn one_backend_in_two_services_under_nat() {
    let second = SECOND.replace("10.1.0.53:53", "10.1.0.1:8080").replace(":53/udp", ":81/tcp");
    insta::assert_snapshot!(mistakes(&(BASE.to_owned() + &second)), @r#"
    zdd.toml:19:13: backend 10.1.0.1:8080 is in service `web` already
    help: nat and snat know a reply by the backend's address: let the backend listen on another port for this service, or use forward = "l2" for both
    "#);
    // One of the two is enough: the replies of the other one pass here as well.
    let l2 = second.replace("nat", "l2").replace(":81/tcp", ":8080/tcp");
    insta::assert_snapshot!(mistakes(&(BASE.to_owned() + &l2)), @r#"
    zdd.toml:19:13: backend 10.1.0.1:8080 is in service `web` already
    help: nat and snat know a reply by the backend's address: let the backend listen on another port for this service, or use forward = "l2" for both
    "#);
}

#[test]
fn versions() {
    let text = &BASE[..BASE.find("[[service.version]]").unwrap()];
    insta::assert_snapshot!(mistakes(text), @"
    zdd.toml:3:1: `version` is missing in service `web`
    help: add a [[service.version]] below it with its name and backends
    ");
    insta::assert_snapshot!(mistakes(&format!("{text}version = []")), @"
    zdd.toml:3:1: `version` is empty in service `web`
    help: add a [[service.version]] below it with its name and backends
    ");
}

#[test]
fn more_than_a_limit() {
    let limit = |limit: &str| {
        mistakes(&(BASE.replace("[\"eth0\"]", &format!("[\"eth0\"]\nlimits = {{ {limit} }}")) + SECOND))
    };
    insta::assert_snapshot!(limit("services = 1"), @"
    zdd.toml:16:7: 2 VIPs are more than agent.limits.services = 1
    help: raise agent.limits.services
    ");
    insta::assert_snapshot!(limit("backends = 2"), @"
    zdd.toml:20:13: 3 backends are more than agent.limits.backends = 2
    help: raise agent.limits.backends, and leave room for those that drain
    ");
    insta::assert_snapshot!(limit("cells = 40000"), @"
    zdd.toml:14:1: the services need 49152 cells (a row for each VIP, each of its cohorts and each preview VIP, and spare ones of each size), agent.limits.cells = 40000
    help: raise agent.limits.cells to at least 49152 (8 bytes each), or lower `cells` of a service
    ");
    valid(
        &(BASE.replace("[\"eth0\"]", "[\"eth0\"]\nlimits = { services = 2, backends = 3, cells = 49152 }")
            + SECOND),
    );
}

#[test]
fn cells_enough_and_no_place_for_a_row() {
    let with = |cells: u32, first: u32, second: u32| {
        let row = |cells: u32| format!("forward = \"nat\"\ncells = {cells}");
        BASE.replace("[\"eth0\"]", &format!("[\"eth0\"]\nlimits = {{ cells = {cells} }}"))
            .replace("forward = \"nat\"", &row(first))
            + &SECOND.replace("forward = \"nat\"", &row(second))
    };
    // Each has one row in reserve. The small two leave a gap before the large two.
    valid(&with(10_240, 4_096, 1_024));
    insta::assert_snapshot!(mistakes(&with(10_240, 1_024, 4_096)), @"
    zdd.toml:19:9: service `dns` finds no 4096 cells in one piece: rows begin at multiples of their size, and with rows of other sizes before it agent.limits.cells = 10240 is 2048 too few
    help: raise agent.limits.cells to at least 12288 (8 bytes each), or name services with more cells first
    ");
    // What is said to be enough is, and one less is not.
    valid(&with(12_288, 1_024, 4_096));
    assert!(mistakes(&with(12_287, 1_024, 4_096)).contains("is 1 too few"));
}

#[test]
fn many_mistakes_are_told_at_once_in_the_order_of_the_file() {
    let text = BASE
        .replace("eth0", "")
        .replace("\"web\"", "\"\"")
        .replace("10.1.0.1:8080", "x")
        .replace("nat", "dsr");
    insta::assert_snapshot!(mistakes(&text), @r#"
    zdd.toml:2:15: `` is no interface name
    help: a name has 1 to 15 letters, no slash and no blank
    zdd.toml:4:8: `name`: `` cannot name a service
    help: use 1 to 63 of a-z, 0-9 and -
    zdd.toml:6:11: `forward`: `dsr` is no forwarding mode
    help: write "nat", "snat", "l2" or "ipip"
    zdd.toml:9:13: `backends`: `x` is not an address
    help: write address:port, as "10.1.0.1:8080" or "[2001:db8::2]:8080"
    "#);
}
