//! VIPs of many ports, and who may dial them.

use super::*;

/// [`BASE`] with other VIPs and backends.
fn ports(vip: &str, v1: &str, v2: &str) -> String {
    BASE.replacen("10.0.0.10:80/tcp", vip, 1).replacen("10.1.0.1:8080", v1, 1).replacen(
        "10.2.0.1:8080",
        v2,
        1,
    )
}

#[test]
fn a_range_of_ports_goes_to_one_that_begins_at_the_backends() {
    let (desired, _) = valid(&ports("10.0.0.10:8000-8099/tcp", "10.1.0.1:9000", "10.2.0.1:8000"));
    let vip = desired.services[0].vips[0];
    assert_eq!((vip.port, vip.more, vip.ports()), (8000, 99, (8000, 8099)));
    let (desired, _) = valid(&ports("[2001:db8::1]:*/tcp", "[2001:db8::2]:*", "[2001:db8::3]:*"));
    assert!(desired.services[0].vips[0].all_ports());
    assert_eq!(desired.services[0].versions[0].backends[0].address.port(), 0);
    // A single port in a range, and a range among all ports.
    let text = ports("10.0.0.10:*/tcp", "10.1.0.1:*", "10.2.0.1:*")
        + &SECOND.replace("53/udp", "8000-8099/tcp").replace("10.1.0.53:53", "10.1.0.53:8000")
        + &SECOND.replace("53/udp", "8050/tcp").replace("dns", "one").replace("10.1.0.53:53", "10.1.0.54:80");
    assert_eq!(valid(&text).0.services.len(), 3);
}

#[test]
fn ranges_of_one_address_do_not_overlap() {
    let text = ports("10.0.0.10:8000-8099/tcp", "10.1.0.1:8000", "10.2.0.1:8000")
        + &SECOND.replace("53/udp", "8090-9000/tcp");
    insta::assert_snapshot!(mistakes(&text), @"
    zdd.toml:15:7: VIP 10.0.0.10:8090-9000/tcp and 10.0.0.10:8000-8099/tcp of service `web` share ports 8090-8099
    help: let the ranges of an address not overlap; a single port inside of a range is fine, and goes before it
    ");
    // Of another protocol, or next to each other, they may be.
    for other in ["8090-9000/udp", "8100-9000/tcp"] {
        let text = ports("10.0.0.10:8000-8099/tcp", "10.1.0.1:8000", "10.2.0.1:8000")
            + &SECOND.replace("53/udp", other);
        assert_eq!(valid(&text).0.services.len(), 2);
    }
}

#[test]
fn replies_of_a_range_are_of_one_vip_and_one_port() {
    insta::assert_snapshot!(mistakes(&ports("10.0.0.10:8000-8099/tcp", "10.1.0.1:8000", "10.1.0.1:8050")), @"
    zdd.toml:12:13: backend 10.1.0.1:8050 shares its ports 8050-8099 with backend 10.1.0.1:8000 of service `web`
    help: nat finds the VIP and its port by the address and port of a reply: let the ranges of a host not overlap
    ");
    let text = ports("10.0.0.10:8000-8099/tcp", "10.1.0.1:8000", "10.2.0.1:8000")
        + &SECOND.replace("53/udp", "53/tcp").replace("10.1.0.53:53", "10.1.0.1:8099");
    insta::assert_snapshot!(mistakes(&text), @"
    zdd.toml:19:13: backend 10.1.0.1:8099 shares its ports 8099-8099 with backend 10.1.0.1:8000 of service `web`
    help: nat finds the VIP and its port by the address and port of a reply: let the ranges of a host not overlap
    ");
    insta::assert_snapshot!(mistakes(&ports("10.0.0.10:8000-8099/tcp", "10.1.0.1:65500", "10.0.0.10:7950")), @"
    zdd.toml:9:13: backend 10.1.0.1:65500 has no room behind its port for the 100 ports of the VIP 10.0.0.10:8000-8099/tcp
    help: the VIP's first port goes to the backend's, the second to the next, and so on: choose a lower one
    zdd.toml:12:13: backend 10.0.0.10:7950 is the VIP of service `web`
    help: a packet would go round in circles: name the backend's own address
    ");
}

#[test]
fn a_backend_has_all_ports_if_its_vip_has() {
    insta::assert_snapshot!(mistakes(&ports("10.0.0.10:*/tcp", "10.1.0.1:8000", "10.2.0.1:*")), @r#"
    zdd.toml:9:13: backend 10.1.0.1:8000 has one port, the VIP 10.0.0.10:*/tcp has all
    help: write "10.1.0.1:*": each port goes to the same port
    "#);
    insta::assert_snapshot!(changed("10.1.0.1:8080", "10.1.0.1:*"), @r#"
    zdd.toml:9:13: backend 10.1.0.1:0 has no port of its own, and the VIP 10.0.0.10:80/tcp does not have all ports
    help: write "10.1.0.1:80"
    "#);
    let text = ports("10.0.0.10:*/tcp", "10.1.0.1:*", "10.2.0.1:*")
        .replace("forward = \"nat\"\n", "forward = \"nat\"\nhealth = { tcp = true }\n");
    insta::assert_snapshot!(mistakes(&text), @"
    zdd.toml:5:7: the health check of service `web` has no port to ask: its VIP 10.0.0.10:*/tcp has all
    help: name one, as health = { tcp = true, port = 8080 }
    ");
    let text = ports("10.0.0.10:8000-8099/tcp", "10.1.0.1:9000", "10.2.0.1:8000")
        .replace("forward = \"nat\"", "forward = \"l2\"");
    insta::assert_snapshot!(mistakes(&text), @r#"
    zdd.toml:9:13: backend 10.1.0.1:9000 has another port than the VIP 10.0.0.10:8000-8099/tcp under l2
    help: l2 does not rewrite ports: write port 8000, or use forward = "nat"
    "#);
}

#[test]
fn who_may_dial() {
    let access = "access = { allow = [\"10.0.0.0/8\", \"192.0.2.1\"], deny = [\"10.1.0.0/16\"] }";
    let limit = "new_per_source = { rate = 100 }";
    let (desired, _) = valid(&BASE.replace("forward", &format!("{access}\n{limit}\nforward")));
    let web = &desired.services[0];
    assert_eq!(web.access.summary(), "2 allowed, 1 denied");
    assert_eq!(web.new_per_source.map(|limit| (limit.rate, limit.burst)), Some((100, 100)));
    insta::assert_snapshot!(with("access = { allow = [\"10.0.0.1/8\", \"10.0.0.0/8\"], deny = [\"10.0.0.0/8\"], alow = [] }"), @"
    zdd.toml:7:21: `allow`: `10.0.0.1/8` has bits behind its length
    help: write 10.0.0.0/8
    zdd.toml:7:58: 10.0.0.0/8 stands in `allow` already
    help: let it stand in one list, once
    zdd.toml:7:73: unknown key `alow` in [service.access]
    help: did you mean `allow`?
    ");
    insta::assert_snapshot!(with("access = {}"), @r#"
    zdd.toml:7:10: [service.access] names nobody
    help: write allow = ["10.0.0.0/8"], deny = ["10.66.0.0/16"], or both; the longest prefix decides
    "#);
    insta::assert_snapshot!(with("new_per_source = { burst = 0 }"), @"
    zdd.toml:7:18: `rate` is missing in `new_per_source`
    help: write { rate = 100, burst = 200 }: new connections a second, and at once
    zdd.toml:7:28: `burst` is 0, out of range
    help: choose 1 to 1000000
    ");
    let udp = format!("{BASE}{}", SECOND.replace("forward", &format!("{limit}\nforward")));
    insta::assert_snapshot!(mistakes(&udp), @"
    zdd.toml:16:18: `new_per_source` means nothing to 10.0.0.10:53/udp
    help: remove it: a UDP datagram does not say whether it begins anything
    ");
}

#[test]
fn a_list_of_another_family_is_told() {
    let (_, warnings) = valid(&BASE.replace("forward", "access = { allow = [\"2001:db8::/32\"] }\nforward"));
    insta::assert_snapshot!(warnings.join("\n"), @"
    zdd.toml:3:1: service `web` has no health check: every backend counts as healthy
    zdd.toml:6:10: `allow` names no IPv4 prefix: nobody may dial 10.0.0.10:80/tcp
    zdd.toml:6:21: 2001:db8::/32 is of a family that no VIP of the service has: it says nothing
    ");
}

#[test]
fn snat_takes_no_vip_of_many_ports() {
    for (vip, v1, v2) in [
        ("10.0.0.10:8000-8099/tcp", "10.1.0.1:8000", "10.2.0.1:8000"),
        ("10.0.0.10:*/tcp", "10.1.0.1:*", "10.2.0.1:*"),
    ] {
        let text = ports(vip, v1, v2).replacen("forward = \"nat\"", "forward = \"snat\"", 1).replacen(
            "[agent]",
            "[agent]\nsnat_source = \"10.0.0.2\"",
            1,
        );
        let said = mistakes(&text);
        assert!(said.contains(&format!("the VIP {vip} has many ports, and backend 10.1.0.1:")), "{said}");
        assert!(said.contains("help: snat knows one port of a backend: use forward = \"nat\""), "{said}");
    }
}
