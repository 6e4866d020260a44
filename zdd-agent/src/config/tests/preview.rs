//! `preview` and `preview_version`.

use super::*;
use crate::desired::ServiceSpec;

/// [`BASE`] under another mode, with these lines in its service.
fn under(forward: &str, lines: &str) -> String {
    BASE.replace("forward = \"nat\"\n", &format!("forward = \"{forward}\"\n{lines}\n"))
}

/// The mistakes, each with its help in a line of its own.
fn told(forward: &str, lines: &str) -> String {
    mistakes(&under(forward, lines))
}

fn spec(text: &str) -> ServiceSpec {
    valid(text).0.services.remove(0)
}

const AGENT: &str = "[\"eth0\"]\nsnat_source = \"10.0.0.1\"\n";

#[test]
fn another_address_or_another_port_will_do_and_nat_needs_an_address_to_send_from() {
    let snat = |lines: &str| under("snat", lines).replacen("[\"eth0\"]\n", AGENT, 1);
    let web = spec(&snat("preview = \"10.0.0.10:81/tcp\"\npreview_version = \"v2\""));
    assert_eq!(
        (web.preview[0].to_string(), web.preview_version),
        ("10.0.0.10:81/tcp".into(), Some("v2".into()))
    );
    let nat = under("nat", "preview = \"10.0.0.11:80/tcp\"");
    assert_eq!(spec(&nat.replacen("[\"eth0\"]\n", AGENT, 1)).preview.len(), 1);
    insta::assert_snapshot!(mistakes(&nat), @"
    zdd.toml:7:11: the preview VIP 10.0.0.11:80/tcp is under nat, and agent.snat_source is not set
    help: set agent.snat_source to an address of this host: a nat backend's replies tell the service's VIP only, so those who dial the preview VIP reach it from there, as under snat
    ");
    let (before, after) = (spec(&snat("")), spec(&snat("preview = \"10.0.0.11:80/tcp\"")));
    assert_eq!(crate::plan::refusals(std::slice::from_ref(&after), std::slice::from_ref(&before)), [""; 0]);
    let changes = crate::plan::changes(&[before], &[after]);
    assert_eq!(
        (changes.len(), changes[0].what.as_str(), changes[0].from.as_deref()),
        (1, "web preview", Some("none"))
    );
}

#[test]
fn what_cannot_be_previewed_says_the_way_out() {
    for (lines, says, help) in [
        ("preview_version = \"v2\"", "`preview_version` means nothing without `preview`", "write preview ="),
        (
            "preview = \"10.0.0.10:80/tcp\"",
            "belongs to service `web` already",
            "an address, port or protocol of its own",
        ),
        ("preview = \"10.0.0.11:80/udp\"", "are of two protocols", "write the same protocol"),
        (
            "preview = \"10.0.0.11:80-89/tcp\"",
            "has not as many ports as the VIP 10.0.0.10:80/tcp",
            "write as many",
        ),
        (
            "preview = \"[2001:db8::11]:80/tcp\"",
            "is IPv6, the service has no such VIP",
            "the same address family",
        ),
        (
            "preview = [\"10.0.0.11:80/tcp\", \"10.0.0.12:80/tcp\"]",
            "has two IPv4 preview VIPs",
            "one of each address family is enough",
        ),
        (
            "preview = \"10.0.0.11:80/tcp\"\npreview_version = \"v9\"",
            "no version `v9` to preview",
            "name one of its",
        ),
        ("preview = \"127.0.0.1:80/tcp\"", "cannot be a VIP: it is a loopback address", "that clients dial"),
        (
            "preview = \"[fe80::1]:80/tcp\"",
            "cannot be a VIP: it is a link-local address",
            "that clients dial",
        ),
        ("preview = \"10.1.0.1:8080/tcp\"", "is the VIP of service `web`", "name the backend's own address"),
        ("preview = \"here\"", "`preview`: `here`", "10.0.0.10:80/tcp"),
        ("preview = \"\"", "`preview`: ", "10.0.0.10:80/tcp"),
        ("preview = 80", "`preview` is of type integer", ""),
    ] {
        let said = mistakes(&under("snat", lines).replacen("[\"eth0\"]\n", AGENT, 1));
        assert!(said.contains(says) && said.contains(help), "{lines}: {said}");
    }
    // Under modes that do not rewrite ports it has the VIP's.
    let l2 = |port: u16| {
        let lines = format!("preview = \"10.0.0.11:{port}/tcp\"");
        under("l2", &lines).replace(":8080", ":80")
    };
    assert_eq!(spec(&l2(80)).preview.len(), 1);
    let said = mistakes(&l2(81));
    assert!(
        said.contains("preview: backend 10.1.0.1:80 has another port than the VIP 10.0.0.11:81/tcp"),
        "{said}"
    );
    assert!(
        told("ipip", "preview = \"10.255.0.9:8080/tcp\"").contains("where outer headers of ipip come from")
    );
}
