//! Mistakes in one place: syntax, keys, names, VIPs, modes and weights.

use super::*;

#[test]
fn text_that_is_not_toml() {
    insta::assert_snapshot!(mistakes("[agent]\ninterfaces = [eth0]\n"), @"
    zdd.toml:2:15: this is not TOML: string values must be quoted, expected literal string
    help: see https://toml.io for the syntax; strings and addresses need quotes
    ");
    insta::assert_snapshot!(changed("name = \"web\"", "name = \"web\"\nname = \"web\""), @"
    zdd.toml:5:1: this is not TOML: duplicate key
    help: see https://toml.io for the syntax; strings and addresses need quotes
    ");
}

#[test]
fn a_file_that_cannot_be_read() {
    let errors = Config::load(Path::new("/nowhere/zdd.toml")).unwrap_err();
    insta::assert_snapshot!(errors.to_string(), @"
    /nowhere/zdd.toml: cannot read the configuration: No such file or directory (os error 2)
    help: check the path and its permissions; the file is UTF-8 text
    ");
}

#[test]
fn an_empty_file() {
    insta::assert_snapshot!(mistakes(""), @r#"
    zdd.toml: `interfaces` is missing in [agent]
    help: name at least one, as interfaces = ["eth0"]; * and ? stand for any text and any letter
    "#);
}

#[test]
fn unknown_keys_everywhere() {
    let text = BASE
        .replace("[agent]", "colour = 1\n[agent]\ninterface = \"eth1\"")
        .replace("vip =", "wip = 1\nvip =");
    let text = text.replace("[\"10.1.0.1:8080\"]", "[{ address = \"10.1.0.1:8080\", wait = 1 }]\nweigth = 3");
    insta::assert_snapshot!(mistakes(&text), @"
    zdd.toml:1:1: unknown key `colour` in the file
    help: the file knows agent, alert, service, node, cohort
    zdd.toml:3:1: unknown key `interface` in [agent]
    help: did you mean `interfaces`?
    zdd.toml:7:1: unknown key `wip` in service `web`
    help: did you mean `vip`?
    zdd.toml:12:42: unknown key `wait` in a backend
    help: a backend knows address, weight
    zdd.toml:13:1: unknown key `weigth` in version `v1`
    help: did you mean `weight`?
    ");
    insta::assert_snapshot!(with("health = { http = \"/\", intervall = \"1s\" }"), @"
    zdd.toml:7:24: unknown key `intervall` in health
    help: did you mean `interval`?
    ");
    insta::assert_snapshot!(with_agent("limits = { flow = 1 }"), @"
    zdd.toml:3:12: unknown key `flow` in [agent.limits]
    help: did you mean `flows`?
    ");
}

#[test]
fn names() {
    insta::assert_snapshot!(changed("name = \"web\"\n", ""), @"
    zdd.toml:3:1: `name` is missing in a service
    help: every command calls a service by its name
    ");
    insta::assert_snapshot!(changed("\"web\"", "\"Web\""), @"
    zdd.toml:4:8: `name`: `Web` cannot name a service
    help: use 1 to 63 of a-z, 0-9 and -
    ");
    insta::assert_snapshot!(changed("\"v1\"", "\"v 1\""), @"
    zdd.toml:8:8: `name`: `v 1` cannot name a version
    help: use 1 to 63 of a-z, A-Z, 0-9, dot, _ and -
    ");
    insta::assert_snapshot!(changed("\"v1\"", "1"), @"
    zdd.toml:8:8: `name` is of type integer
    help: write a string in quotes
    ");
    insta::assert_snapshot!(changed("\"v2\"", "\"v1\""), @"
    zdd.toml:11:8: version `v1` of service `web` is there already, in line 8
    help: give each version of a service a name of its own
    ");
    insta::assert_snapshot!(mistakes(&(BASE.to_owned() + &SECOND.replace("dns", "web"))), @"
    zdd.toml:14:8: service `web` is there already, in line 4
    help: give each service a name of its own
    ");
}

#[test]
fn vips() {
    insta::assert_snapshot!(changed("vip = \"10.0.0.10:80/tcp\"\n", ""), @r#"
    zdd.toml:3:1: `vip` is missing in service `web`
    help: write what clients dial, as vip = "10.0.0.10:80/tcp"
    "#);
    insta::assert_snapshot!(changed("10.0.0.10:80/tcp", "10.0.0.10:80"), @r#"
    zdd.toml:5:7: `vip`: `10.0.0.10:80` is not a VIP
    help: write address:port/protocol, as "10.0.0.10:80/tcp" or "[2001:db8::1]:443/udp"; a range of ports as 8000-8099, all ports as *
    "#);
    insta::assert_snapshot!(changed("10.0.0.10:80/tcp", "10.0.0.10:0/tcp"), @"
    zdd.toml:5:7: 10.0.0.10:0/tcp cannot be a VIP: port 0 is no port
    help: write the address and port that clients dial
    ");
    insta::assert_snapshot!(changed("10.0.0.10:80/tcp", "127.0.0.1:80/tcp"), @"
    zdd.toml:5:7: 127.0.0.1:80/tcp cannot be a VIP: it is a loopback address, and packets to it never pass an interface
    help: write the address and port that clients dial
    ");
    insta::assert_snapshot!(mistakes(&(BASE.to_owned() + &SECOND.replace(":53/udp", ":80/tcp"))), @"
    zdd.toml:15:7: VIP 10.0.0.10:80/tcp belongs to service `web` already
    help: give each service an address, port or protocol of its own, or put the versions into one service
    ");
}

#[test]
fn modes() {
    insta::assert_snapshot!(changed("forward = \"nat\"\n", ""), @r#"
    zdd.toml:3:1: `forward` is missing in service `web`
    help: write "nat" (replies pass this host), "snat" (the same, for backends anywhere), "l2" (backends own the VIP and answer directly) or "ipip" (the same, across routers)
    "#);
    insta::assert_snapshot!(changed("\"nat\"", "\"dsr\""), @r#"
    zdd.toml:6:11: `forward`: `dsr` is no forwarding mode
    help: write "nat", "snat", "l2" or "ipip"
    "#);
    insta::assert_snapshot!(with("affinity = \"source\""), @r#"
    zdd.toml:7:12: `affinity`: `source` is no affinity
    help: write "flow", "client" or "client-version"
    "#);
    insta::assert_snapshot!(with_agent("mode = \"offload\""), @r#"
    zdd.toml:3:8: `mode`: `offload` is no attach mode
    help: write "native" or "generic"
    "#);
}

#[test]
fn weights() {
    let weights = |v1: &str, v2: &str| {
        let text = BASE.replace("\"v1\"", &format!("\"v1\"\nweight = {v1}"));
        mistakes(&text.replace("\"v2\"", &format!("\"v2\"\nweight = {v2}")))
    };
    insta::assert_snapshot!(weights("0", "0"), @"
    zdd.toml:9:10: the weights of service `web` sum to 0% (v1 0%, v2 0%)
    help: make them sum to 100%; a version without a weight has 0%, and if none has one the first gets all
    ");
    insta::assert_snapshot!(weights("60", "39.99"), @"
    zdd.toml:9:10: the weights of service `web` sum to 99.99% (v1 60%, v2 39.99%)
    help: make them sum to 100%; a version without a weight has 0%, and if none has one the first gets all
    ");
    insta::assert_snapshot!(weights("100", "\"0.5%\""), @"
    zdd.toml:9:10: the weights of service `web` sum to 100.5% (v1 100%, v2 0.5%)
    help: make them sum to 100%; a version without a weight has 0%, and if none has one the first gets all
    ");
    insta::assert_snapshot!(weights("100.01", "0"), @r#"
    zdd.toml:9:10: `weight`: `100.01` is not a weight: it is above 100
    help: write a percentage from 0 to 100, as 10, 12.5 or "0.25%"
    "#);
    insta::assert_snapshot!(weights("33.333", "66.667"), @r#"
    zdd.toml:9:10: `weight`: `33.333` is not a weight: a share is exact to two decimals
    help: write a percentage from 0 to 100, as 10, 12.5 or "0.25%"
    zdd.toml:13:10: `weight`: `66.667` is not a weight: a share is exact to two decimals
    help: write a percentage from 0 to 100, as 10, 12.5 or "0.25%"
    "#);
    insta::assert_snapshot!(weights("-1", "true"), @r#"
    zdd.toml:9:10: `weight`: `-1` is not a weight: it is not a number
    help: write a percentage from 0 to 100, as 10, 12.5 or "0.25%"
    zdd.toml:13:10: `weight` is of type boolean
    help: write a percentage, as 10, 12.5 or "12.5%"
    "#);
}

#[test]
fn mistakes_in_the_api_section_are_told_with_the_way_out() {
    let text = r#"
        [agent]
        interfaces = ["eth0"]
        [agent.api]
        socket_group = "a b"
        listen = "10.0.0.1:9443"
        [[agent.api.role]]
        role = "root"
        certificates = "ci.example.com"
        [[agent.api.role]]
        role = "viewer"
    "#;
    let errors = Config::parse(text, "zdd.toml").unwrap_err().to_string();
    for (told, way_out) in [
        ("`cert` is missing in [agent.api]", "needs all of listen, cert, key and client_ca"),
        ("`key` is missing in [agent.api]", "callers show a certificate too"),
        ("`a b` is no user or group", "write its name or its number"),
        ("`root` is no role", "\"viewer\", \"operator\" or \"admin\""),
        ("`ci.example.com` is no name in a certificate", "dns:ci.example.com"),
        ("a role that nobody has", "name users, groups"),
    ] {
        assert!(errors.contains(told) && errors.contains(way_out), "{told}: {errors}");
    }
}
