//! What a health check can say, and what it cannot.

use std::time::Duration;

use super::*;
use crate::desired::{DnsCheck, GrpcCheck, HealthSpec, Probe, UdpCheck};
use crate::rollout::spec::{Comparison, Operand};

fn read(health: &str) -> HealthSpec {
    let text = BASE.replace("forward = \"nat\"", &format!("forward = \"nat\"\nhealth = {{ {health} }}"));
    valid(&text).0.services[0].health.clone().unwrap()
}

fn refused(health: &str) -> String {
    with(&format!("health = {{ {health} }}"))
}

#[test]
fn every_kind_of_check_can_be_said() {
    let Probe::Http(check) = read(
        "https = '/h', host = 'shop.example', server_name = 'a.example', ca = '/ca.pem', client_cert = '/c.pem', \
         client_key = '/k.pem', expect_headers = ['X-Ready: yes'], body_contains = 'ok', body_matches = 'v[0-9]+', \
         json = ['$.db == \"ok\"', '$.lag <= 10', '$.parts[?@.kind == \"db\"].up == true']",
    )
    .probe
    else {
        panic!("not HTTP")
    };
    let tls = check.tls.unwrap();
    assert_eq!((tls.server_name.as_deref(), tls.insecure), (Some("a.example"), false));
    assert!(tls.ca.is_some() && tls.client.is_some());
    assert_eq!(check.headers, [("X-Ready".to_owned(), "yes".to_owned())]);
    let json: Vec<_> =
        check.json.iter().map(|one| (one.path.as_str(), one.is.op, one.is.with.clone())).collect();
    assert_eq!(
        json,
        [
            ("$.db", Comparison::Equal, Operand::Text("ok".into())),
            ("$.lag", Comparison::AtMost, Operand::Number(10.0)),
            ("$.parts[?@.kind == \"db\"].up", Comparison::Equal, Operand::Bool(true)),
        ]
    );
    let grpc = GrpcCheck { service: "shop.Cart".into(), watch: true, ..GrpcCheck::default() };
    assert_eq!(read("grpc = 'shop.Cart', watch = true").probe, Probe::Grpc(grpc));
    let Probe::Grpc(grpc) = read("grpc = '', tls = true, insecure = true").probe else { panic!("not gRPC") };
    assert!(grpc.tls.unwrap().insecure);
    let udp = UdpCheck { send: b"ping".to_vec(), answer: vec![0, 255], matches: Some("x$".into()) };
    assert_eq!(read("udp = 'ping', answer_hex = '00 fF', answer_matches = 'x$'").probe, Probe::Udp(udp));
    let dns = DnsCheck { name: "example.org".into(), kind: "AAAA".into(), rcode: 3, answer: None };
    assert_eq!(read("dns = 'example.org.', type = 'aaaa', rcode = 'nxdomain'").probe, Probe::Dns(dns));
    assert_eq!(read("exec = ['/bin/true']").probe, Probe::Exec { argv: vec!["/bin/true".into()] });
}

#[test]
fn the_rest_of_a_check() {
    let check = read(
        "http = '/h', interval = '5s', fast_interval = '500ms', panic_threshold = 0.5, \
         depends = [{ name = 'db', path = '$.db', shared = true }, { name = 'lag', path = '$.lag', success = '< 5' }]",
    );
    assert_eq!(check.fast_interval, Some(Duration::from_millis(500)));
    assert_eq!(check.panic_threshold, Some(0.5));
    let depends: Vec<_> =
        check.depends.iter().map(|d| (d.name.as_str(), d.shared, d.success.is_some())).collect();
    assert_eq!(depends, [("db", true, false), ("lag", false, true)]);
}

#[test]
fn what_makes_no_sense_is_told_with_a_way_out() {
    for (health, said) in [
        ("http = '/', ca = '/ca.pem'", "`ca` means nothing to a check with `http`"),
        ("https = '/', ca = 'ca.pem'", "`ca.pem` is not absolute"),
        ("https = '/', ca = '/ca.pem', insecure = true", "`insecure` believes everybody"),
        ("https = '/', client_cert = '/c.pem'", "belong together"),
        ("grpc = '', ca = '/ca.pem'", "`ca` means nothing without TLS"),
        ("tcp = true, watch = true", "`watch` means nothing to a check with `tcp`"),
        ("udp = 'x', status = [200]", "`status` means nothing to a check with `udp`"),
        ("udp_hex = '0g'", "is not bytes in hexadecimal"),
        ("udp = 'x', answer = 'y', answer_hex = '00'", "both `answer` and `answer_hex` are given"),
        ("dns = ''", "`` is no name"),
        ("dns = 'a.b', type = 'AXFR'", "`AXFR` is no type that a check knows"),
        ("dns = 'a.b', rcode = 'NXDOMAIN', answer = '10.0.0.1'", "only NOERROR brings records"),
        ("exec = ['true']", "begin with the absolute path"),
        ("http = '/', json = ['$.db']", "`$.db` is no assertion"),
        ("http = '/', json = ['db == 1']", "`db == 1` is no assertion"),
        ("http = '/', body_matches = '('", "`(` is no regular expression: unclosed group"),
        ("http = '/', body_matches = 'x{1000}{1000}'", "size limit"),
        ("http = '/', expect_headers = ['ready']", "`ready` is no header"),
        ("http = '/', fast_interval = '2s'", "longer than the interval"),
        ("http = '/', panic_threshold = 50", "`panic_threshold` is out of range"),
        ("http = '/', depends = [{ name = 'db' }]", "`path` is missing in a depends"),
        (
            "http = '/', depends = [{ name = 'db', path = '$.a' }, { name = 'db', path = '$.b' }]",
            "dependency `db` is there already",
        ),
    ] {
        let told = refused(health);
        assert!(told.contains(said), "{health}:\n{told}");
        assert!(!told.contains("unknown key"), "{health}:\n{told}");
    }
}

#[test]
fn an_older_state_file_s_check_is_still_read() {
    let old = r#"{"probe":{"http":{"path":"/h","status":[],"host":null}},"interval":{"secs":1,"nanos":0},
        "timeout":{"secs":0,"nanos":500000000},"rise":2,"fall":3,"jitter":0.2,"port":null}"#;
    let check: HealthSpec = serde_json::from_str(old).unwrap();
    assert_eq!(check, read("http = '/h'"));
    let tcp: Probe = serde_json::from_str("\"tcp\"").unwrap();
    assert_eq!(tcp, Probe::Tcp);
}
