//! Who may ask. The page listens on loopback only, but a browser on this machine takes every web site there: one that made its own
//! name point to 127.0.0.1 (DNS rebinding) would be of the same origin as the page, and any site can send requests blindly.

use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN};
use hyper::http::uri::Authority;

/// Fetch metadata: from where a browser's request comes.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Sent with every answer: nothing from elsewhere is loaded, nothing elsewhere may embed or read the page, nothing is kept.
pub(super) const HEADERS: [(&str, &str); 7] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cache-control", "no-store"),
];

fn word<'a>(headers: &'a HeaderMap<HeaderValue>, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Whether somebody may look.
///
/// # Errors
/// Why not, for the answer.
pub(super) fn may_look(headers: &HeaderMap<HeaderValue>) -> Result<(), &'static str> {
    let host = word(headers, &HOST).and_then(|host| host.parse::<Authority>().ok());
    if !host.is_some_and(|host| is_loopback(host.host())) {
        return Err(
            "this page answers to localhost, 127.0.0.1 and [::1] only, whatever port is forwarded to it",
        );
    }
    match word(headers, &FETCH_SITE) {
        // `none`: typed or bookmarked. Without the header it is no browser, or an old one.
        None | Some("same-origin" | "none") => Ok(()),
        // A link from elsewhere to the page is harmless, but whatever it asks for would come without the reader's intent.
        Some(_) => Err("this page does not answer to other sites; open its address yourself"),
    }
}

/// Whether somebody may change something. `token`: the agent's own.
///
/// # Errors
/// Why not, for the answer.
pub(super) fn may_act(headers: &HeaderMap<HeaderValue>, token: &str) -> Result<(), &'static str> {
    let same = word(headers, &HOST)
        .zip(word(headers, &ORIGIN))
        .is_some_and(|(host, origin)| origin.strip_prefix("http://") == Some(host));
    if !same {
        return Err("only the page itself may ask for this");
    }
    // A form of another site cannot send it.
    if word(headers, &CONTENT_TYPE) != Some("application/json") {
        return Err("the body must be application/json");
    }
    let given =
        word(headers, &AUTHORIZATION).and_then(|text| text.strip_prefix("Bearer ")).unwrap_or_default();
    if !equal(given.as_bytes(), token.as_bytes()) {
        return Err("the token is wrong");
    }
    Ok(())
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// In a time that does not tell how much of it was right.
fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap<HeaderValue> {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn only_names_of_this_machine_are_answered() {
        for host in ["localhost", "LocalHost:9178", "127.0.0.1:9178", "127.9.9.9", "[::1]:80", "localhost:1"]
        {
            assert_eq!(may_look(&headers(&[("host", host)])), Ok(()), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "127.0.0.1.evil.example:9178",
            "10.0.0.1",
            "localhost.evil.example",
            "[fd00::1]",
        ] {
            assert!(may_look(&headers(&[("host", host)])).is_err(), "{host}");
        }
        assert!(may_look(&headers(&[])).is_err());
    }

    #[test]
    fn other_sites_are_not_answered() {
        for (site, answered) in
            [("same-origin", true), ("none", true), ("same-site", false), ("cross-site", false)]
        {
            let asked = headers(&[("host", "localhost"), ("sec-fetch-site", site)]);
            assert_eq!(may_look(&asked).is_ok(), answered, "{site}");
        }
    }

    #[test]
    fn an_action_needs_origin_json_and_token() {
        let whole = [
            ("host", "localhost:9178"),
            ("origin", "http://localhost:9178"),
            ("content-type", "application/json"),
            ("authorization", "Bearer 0123"),
        ];
        assert_eq!(may_act(&headers(&whole), "0123"), Ok(()));
        for left_out in 0..whole.len() {
            let mut some = whole.to_vec();
            some.remove(left_out);
            assert!(may_act(&headers(&some), "0123").is_err(), "without {}", whole[left_out].0);
        }
        for (name, value) in [
            ("origin", "http://localhost:1"),
            ("origin", "null"),
            ("content-type", "text/plain"),
            ("authorization", "Bearer 0124"),
            ("authorization", "Bearer "),
        ] {
            let some: Vec<_> =
                whole.iter().map(|pair| if pair.0 == name { (name, value) } else { *pair }).collect();
            assert!(may_act(&headers(&some), "0123").is_err(), "{name}: {value}");
        }
    }
}
