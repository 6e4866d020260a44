//! Values out of range: cells, times, health checks, the agent's own.

use super::*;

#[test]
fn cells() {
    insta::assert_snapshot!(with("cells = 10000"), @"
    zdd.toml:7:9: `cells` is 10000, not a power of two
    help: choose 8192 or 16384
    ");
    insta::assert_snapshot!(with("cells = 512"), @"
    zdd.toml:7:9: `cells` is 512, out of range
    help: choose 1024 to 1048576
    ");
    insta::assert_snapshot!(with("cells = 2097152"), @"
    zdd.toml:7:9: `cells` is 2097152, out of range
    help: choose 1024 to 1048576
    ");
}

#[test]
fn times() {
    insta::assert_snapshot!(with("idle_timeout = \"0s\""), @"
    zdd.toml:7:16: `idle_timeout` is 0s, out of range
    help: choose 1s to 1day
    ");
    insta::assert_snapshot!(with("idle_timeout = \"25h\"\nudp_idle_timeout = \"10ms\""), @"
    zdd.toml:7:16: `idle_timeout` is 1day 1h, out of range
    help: choose 1s to 1day
    zdd.toml:8:20: `udp_idle_timeout` is 10ms, out of range
    help: choose 1s to 1day
    ");
    insta::assert_snapshot!(with("idle_timeout = 350"), @r#"
    zdd.toml:7:16: `idle_timeout` is of type integer
    help: write a duration in quotes, as "350s", "500ms" or "2m"
    "#);
    insta::assert_snapshot!(with("drain_timeout = \"0s\""), @"
    zdd.toml:7:17: `drain_timeout` is 0s, out of range
    help: choose 1ms to 30days
    ");
    insta::assert_snapshot!(with("idle_timeout = \"soon\""), @r#"
    zdd.toml:7:16: `idle_timeout`: `soon` is not a duration
    help: write "350s", "500ms" or "2m"
    "#);
    insta::assert_snapshot!(with_agent("syn_memory = \"0s\""), @"
    zdd.toml:3:14: `syn_memory` is 0s, out of range
    help: choose 1s to 10m
    ");
}

#[test]
fn health_checks() {
    insta::assert_snapshot!(with("health = {}"), @r#"
    zdd.toml:7:10: a health check does not say what to ask
    help: write http = "/health", https, grpc, tcp = true, udp, dns or exec
    "#);
    insta::assert_snapshot!(with("health = { http = \"/\", tcp = true }"), @r#"
    zdd.toml:7:10: a health check asks one thing, not both `tcp` and `http`
    help: write http = "/health", https, grpc, tcp = true, udp, dns or exec
    "#);
    insta::assert_snapshot!(with("health = { tcp = false }"), @r#"
    zdd.toml:7:18: `tcp` can only be true
    help: write tcp = true, or http = "/health", or remove the health check
    "#);
    insta::assert_snapshot!(with("health = { tcp = true, status = [200] }"), @r#"
    zdd.toml:7:10: `status` means nothing to a check with `tcp`
    help: remove them, or ask http = "/" instead of tcp = true
    "#);
    insta::assert_snapshot!(with("health = { http = \"health\", status = [42], host = \"\", port = 0 }"), @r#"
    zdd.toml:7:19: `http`: `health` is no path
    help: begin with / and encode blanks, as "/health"
    zdd.toml:7:39: this is no HTTP status code
    help: write 100 to 599
    zdd.toml:7:51: `host`: `` is no host name
    help: write "example.org"
    zdd.toml:7:62: `port` is 0, out of range
    help: choose 1 to 65535
    "#);
    insta::assert_snapshot!(with("health = { http = \"/\", interval = \"0s\", timeout = \"0ms\", rise = 0, fall = 0, jitter = 2.0 }"), @"
    zdd.toml:7:35: `interval` is 0s, out of range
    help: choose 10ms to 1h
    zdd.toml:7:51: `timeout` is 0s, out of range
    help: choose 1ms to 1m
    zdd.toml:7:65: `rise` is 0, out of range
    help: choose 1 to 1000
    zdd.toml:7:75: `fall` is 0, out of range
    help: choose 1 to 1000
    zdd.toml:7:87: `jitter` is out of range
    help: choose a fraction of the interval from 0.0 to 1.0
    ");
    insta::assert_snapshot!(with("health = true"), @"
    zdd.toml:7:10: `health` is of type boolean
    help: write a table
    ");
}

#[test]
fn agents() {
    insta::assert_snapshot!(changed("interfaces = [\"eth0\"]\n", ""), @r#"
    zdd.toml:1:1: `interfaces` is missing in [agent]
    help: name at least one, as interfaces = ["eth0"]; * and ? stand for any text and any letter
    "#);
    insta::assert_snapshot!(changed("[\"eth0\"]", "[]"), @r#"
    zdd.toml:2:14: `interfaces` is empty
    help: name at least one, as interfaces = ["eth0"]; * and ? stand for any text and any letter
    "#);
    insta::assert_snapshot!(changed("[\"eth0\"]", "\"eth0\""), @r#"
    zdd.toml:2:14: `interfaces` is of type string
    help: write an array of names, as ["eth0"]
    "#);
    insta::assert_snapshot!(changed("[\"eth0\"]", "[\"eth0\", \"eth0\", \"a/b\", 1]"), @"
    zdd.toml:2:23: interface `eth0` is named twice
    help: remove one of them
    zdd.toml:2:31: `a/b` is no interface name
    help: a name has 1 to 15 letters, no slash and no blank
    zdd.toml:2:38: `interfaces` is of type integer
    help: write a name in quotes
    ");
    insta::assert_snapshot!(with_agent("metrics = \"0.0.0.0:9177\""), @r#"
    zdd.toml:3:11: `metrics`: `0.0.0.0:9177` is not a loopback address
    help: metrics have no password: write 127.0.0.1:9177 and put a proxy in front, or "off"
    "#);
    insta::assert_snapshot!(with_agent("metrics = \"localhost\""), @r#"
    zdd.toml:3:11: `metrics`: `localhost` is not an address
    help: write "127.0.0.1:9177" or "off"
    "#);
    insta::assert_snapshot!(with_agent("page = \"192.0.2.1:80\""), @r#"
    zdd.toml:3:8: `page`: `192.0.2.1:80` is not a loopback address
    help: the page has no password: write 127.0.0.1:80 and forward the port by ssh -L, or "off"
    "#);
    insta::assert_snapshot!(with_agent("otlp = \"https://collector:4318\""), @r#"
    zdd.toml:3:8: `otlp`: `https://collector:4318` is no collector
    help: write "http://127.0.0.1:4318" or "off"
    "#);
    for address in ["http://me:hush@collector:4318", "https://me:hush@collector:4318", "http://hush@:4318"] {
        let told = with_agent(&format!("otlp = \"{address}\""));
        assert!(told.contains("name or password in it") && told.contains("http://127.0.0.1:4318"), "{told}");
        assert!(!told.contains("hush"), "{told}");
    }
    insta::assert_snapshot!(with_agent("log = \"xml\""), @r#"
    zdd.toml:3:7: `log`: `xml` is no form of log
    help: write "text" or "json"
    "#);
    insta::assert_snapshot!(with_agent("page_actions = 1"), @r#"
    zdd.toml:3:16: `page_actions` is of type integer
    help: write true or false
    "#);
    insta::assert_snapshot!(with_agent("pin_dir = \"zdd\""), @"
    zdd.toml:3:11: `pin_dir`: `zdd` is not absolute
    help: write the path from / on
    ");
    insta::assert_snapshot!(with_agent(&format!("socket = \"/{}\"", "x".repeat(100))), @"
    zdd.toml:3:10: `socket`: the path has 101 bytes, a socket's may have 96
    help: choose a shorter one
    ");
    insta::assert_snapshot!(with_agent("limits = { services = 0, flows = \"many\" }"), @"
    zdd.toml:3:23: `services` is 0, out of range
    help: choose 1 to 65535
    zdd.toml:3:34: `flows` is of type string
    help: write a whole number
    ");
}
