//! Mistakes that show when several values are looked at together.

use super::*;

#[test]
fn backends() {
    let backend = |text: &str| changed("\"10.1.0.1:8080\"", text);
    insta::assert_snapshot!(backend("\"10.1.0.1\""), @r#"
    zdd.toml:9:13: `backends`: `10.1.0.1` is not an address
    help: write address:port, as "10.1.0.1:8080" or "[2001:db8::2]:8080"
    "#);
    insta::assert_snapshot!(backend("\"10.1.0.1:0\", \"0.0.0.0:80\", \"224.0.0.1:80\", \"127.0.0.1:80\", \"255.255.255.255:80\""), @"
    zdd.toml:9:13: 10.1.0.1:0 cannot be a backend: port 0 is no port
    help: write the address and port on which the backend listens, as this host reaches it
    zdd.toml:9:27: 0.0.0.0:80 cannot be a backend: it is the unspecified address
    help: write the address and port on which the backend listens, as this host reaches it
    zdd.toml:9:41: 224.0.0.1:80 cannot be a backend: it is a multicast address
    help: write the address and port on which the backend listens, as this host reaches it
    zdd.toml:9:57: 127.0.0.1:80 cannot be a backend: it is a loopback address, and packets to it never pass an interface
    help: write the address and port on which the backend listens, as this host reaches it
    zdd.toml:9:73: 255.255.255.255:80 cannot be a backend: it is the broadcast address
    help: write the address and port on which the backend listens, as this host reaches it
    ");
    insta::assert_snapshot!(backend("\"[2001:db8::2]:8080\", \"[::ffff:10.1.0.1]:8080\""), @"
    zdd.toml:9:13: backend [2001:db8::2]:8080 is IPv6, the VIP 10.0.0.10:80/tcp is IPv4
    help: a service has one address family; make a second service for the other one
    zdd.toml:9:35: [::ffff:10.1.0.1]:8080 cannot be a backend: it is an IPv4 address written as IPv6
    help: write the address and port on which the backend listens, as this host reaches it
    zdd.toml:9:35: backend [::ffff:10.1.0.1]:8080 is IPv6, the VIP 10.0.0.10:80/tcp is IPv4
    help: a service has one address family; make a second service for the other one
    ");
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
fn one_backend_in_two_services_under_nat() {
    let second = SECOND.replace("10.1.0.53:53", "10.1.0.1:8080").replace(":53/udp", ":81/tcp");
    insta::assert_snapshot!(mistakes(&(BASE.to_owned() + &second)), @r#"
    zdd.toml:19:13: backend 10.1.0.1:8080 is in service `web` already
    help: nat finds the VIP of a reply by the backend's address: let the backend listen on another port for this service, or use forward = "l2" for both
    "#);
    // One of the two is enough: the replies of the other one pass here as well.
    let l2 = second.replace("nat", "l2").replace(":81/tcp", ":8080/tcp");
    insta::assert_snapshot!(mistakes(&(BASE.to_owned() + &l2)), @r#"
    zdd.toml:19:13: backend 10.1.0.1:8080 is in service `web` already
    help: nat finds the VIP of a reply by the backend's address: let the backend listen on another port for this service, or use forward = "l2" for both
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
    zdd.toml:14:1: 2 services are more than agent.limits.services = 1
    help: raise agent.limits.services
    ");
    insta::assert_snapshot!(limit("backends = 2"), @"
    zdd.toml:20:13: 3 backends are more than agent.limits.backends = 2
    help: raise agent.limits.backends, and leave room for those that drain
    ");
    insta::assert_snapshot!(limit("cells = 40000"), @"
    zdd.toml:14:1: the services need 49152 cells (their own, and a spare row of each size), agent.limits.cells = 40000
    help: raise agent.limits.cells to at least 49152 (8 bytes each), or lower `cells` of a service
    ");
    valid(
        &(BASE.replace("[\"eth0\"]", "[\"eth0\"]\nlimits = { services = 2, backends = 3, cells = 49152 }")
            + SECOND),
    );
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
    help: write "nat" or "l2"
    zdd.toml:9:13: `backends`: `x` is not an address
    help: write address:port, as "10.1.0.1:8080" or "[2001:db8::2]:8080"
    "#);
}
