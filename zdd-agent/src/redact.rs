//! Secrets out of text that leaves the host: what a configuration keeps secret, and what looks like one anywhere.
//!
//! A text is not understood, only searched: user and password of a URL, values of parameters and keys whose names say that they are
//! secret, bearer tokens, private keys. Whatever was found secret in the configuration is taken out of every other text as well.

use std::fmt;

use serde::{Deserialize, Serialize};
use toml::Value;

/// Stands where a secret was.
pub const HIDDEN: &str = "[redacted]";

/// Words in names of things that are secret.
const NAMES: [&str; 10] = [
    "password",
    "passwd",
    "secret",
    "token",
    "api_key",
    "apikey",
    "api-key",
    "authorization",
    "signature",
    "credential",
];

/// Shorter ones are not looked for in other texts: they would hit by chance.
const LEAST: usize = 4;

/// An address whose path and query may be a secret: it is shown and logged by its host only.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Url(pub String);

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let uri = self.0.parse::<hyper::Uri>().ok();
        let host = uri.as_ref().and_then(|uri| Some((uri.scheme_str()?, uri.host()?, uri.port_u16())));
        match host {
            Some((scheme, host, Some(port))) => write!(f, "{scheme}://{host}:{port}/..."),
            Some((scheme, host, None)) => write!(f, "{scheme}://{host}/..."),
            None => f.write_str("..."),
        }
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What was found secret.
#[derive(Clone, Debug, Default)]
pub struct Secrets(Vec<String>);

impl Secrets {
    fn add(&mut self, secret: &str) {
        let secret = secret.trim();
        if secret.len() >= LEAST && !self.0.iter().any(|known| known == secret) {
            self.0.push(secret.to_owned());
            // Longer ones first: one may hold another.
            self.0.sort_by_key(|known| std::cmp::Reverse(known.len()));
        }
    }

    /// A configuration without its secrets, which are remembered. A text that is no TOML is searched like any other.
    pub fn config(&mut self, text: &str) -> String {
        let Ok(mut document) = text.parse::<toml::Table>() else { return self.text(text) };
        for (key, value) in &mut document {
            self.value(key, value);
        }
        let text = toml::to_string_pretty(&document).unwrap_or_else(|_| HIDDEN.to_owned());
        self.text(&text)
    }

    fn value(&mut self, key: &str, value: &mut Value) {
        match value {
            Value::String(text) if names_a_secret(key) => {
                self.add(text);
                HIDDEN.clone_into(text);
            }
            // Datagrams of health checks begin with communities and shared secrets. Short words, so not looked for elsewhere.
            Value::String(text) if matches!(key, "udp" | "udp_hex") && text != "stick" && text != "now" => {
                HIDDEN.clone_into(text);
            }
            Value::String(text) => {
                let hidden = self.behind_the_host(key, text);
                *text = self.text(&hidden);
            }
            // Arguments of programs: nobody knows which of them are passwords.
            Value::Array(items) if matches!(key, "exec" | "argv") => {
                for item in items.iter_mut().skip(1) {
                    self.hide(item);
                }
            }
            Value::Array(items) if key == "expect_headers" => {
                for item in items {
                    let Value::String(text) = item else { continue };
                    let Some((name, value)) = text.split_once(':') else { continue };
                    if names_a_secret(name.trim()) {
                        self.add(value);
                        *text = format!("{name}: {HIDDEN}");
                    }
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.value(key, item)),
            Value::Table(table) if matches!(key, "env" | "headers") => {
                table.iter_mut().for_each(|(_, value)| self.hide(value));
            }
            Value::Table(table) if matches!(key, "exec") => {
                table.iter_mut().for_each(|(key, value)| self.value(key, value));
            }
            Value::Table(table) => table.iter_mut().for_each(|(key, value)| self.value(key, value)),
            _ => {}
        }
    }

    /// An address without what only its owner knows: all behind the host. Names and passwords are refused in addresses, so paths and
    /// queries are where tokens stand.
    fn behind_the_host(&mut self, key: &str, text: &str) -> String {
        let Some(host) = text.find("://").map(|at| at + 3) else { return text.to_owned() };
        if !matches!(key, "webhook" | "otlp" | "url" | "address" | "alertmanager") {
            return text.to_owned();
        }
        let end = text[host..].find(['/', '?']).map(|at| host + at + 1);
        let Some(end) = end.filter(|end| *end < text.len()) else {
            return text.to_owned();
        };
        // What is short would be taken out of texts that have nothing to do with it, and so would a plain word without its slash.
        let path = &text[end..];
        let word = path.bytes().all(|byte| byte.is_ascii_lowercase());
        if path.len() >= 2 * LEAST {
            self.add(if word { &text[end - 1..] } else { path });
        }
        format!("{}{HIDDEN}", &text[..end])
    }

    fn hide(&mut self, value: &mut Value) {
        if let Value::String(text) = value {
            // Names of the agent's own are no secret, and would be taken out of everything.
            if !text.contains("{{") {
                self.add(text);
            }
        }
        *value = Value::String(HIDDEN.to_owned());
    }

    /// Any text without what is known to be secret or looks like it. What looks like it is remembered.
    pub fn text(&mut self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut in_key = false;
        for line in text.split_inclusive('\n') {
            if line.contains("-----BEGIN") && line.contains("PRIVATE KEY") {
                in_key = true;
                out.push_str(HIDDEN);
                out.push('\n');
            }
            if in_key {
                in_key = !line.contains("-----END");
                continue;
            }
            let line = self.user_info(line);
            out.push_str(&self.named(&line));
        }
        for secret in &self.0 {
            out = out.replace(secret, HIDDEN);
        }
        out
    }

    /// `scheme://user:password@host` loses what is before the `@`.
    fn user_info(&mut self, line: &str) -> String {
        let mut out = String::with_capacity(line.len());
        let mut rest = line;
        while let Some(at) = rest.find("://") {
            let (before, after) = rest.split_at(at + 3);
            out.push_str(before);
            let authority = after.find(|c: char| "/?# \t\"'`<>\n".contains(c)).unwrap_or(after.len());
            match after[..authority].rfind('@') {
                Some(end) => {
                    for part in after[..end].splitn(2, ':') {
                        self.add(part);
                    }
                    out.push_str(HIDDEN);
                    rest = &after[end..];
                }
                None => rest = after,
            }
        }
        out + rest
    }

    /// `token=VALUE`, `"password": "VALUE"`, `Authorization: Bearer VALUE` lose their value.
    fn named(&mut self, line: &str) -> String {
        let lower = line.to_ascii_lowercase();
        let mut cuts: Vec<(usize, usize)> = Vec::new();
        for name in NAMES.iter().chain(&["bearer", "access_key", "sig"]) {
            for (at, _) in lower.match_indices(name) {
                let mut value = at + name.len();
                let between = |c: char| "\"'\\ \t".contains(c);
                let skip = |from: usize, what: &dyn Fn(char) -> bool| {
                    from + line[from..].find(|c| !what(c)).unwrap_or(line.len() - from)
                };
                // The rest of the name: `token_v2=`.
                value = skip(value, &|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
                let whole = value;
                value = skip(value, &between);
                let assigned = line[value..].starts_with(['=', ':']);
                if assigned {
                    value = skip(value + 1, &|c| between(c) || c == '=');
                } else if *name != "bearer" || whole == value {
                    continue;
                }
                for scheme in ["bearer ", "basic "] {
                    if lower[value..].starts_with(scheme) {
                        value += scheme.len();
                    }
                }
                let end = value
                    + line[value..]
                        .find(|c: char| "\"'\\ \t\n,;&})]".contains(c))
                        .unwrap_or(line.len() - value);
                if end > value {
                    cuts.push((value, end));
                }
            }
        }
        cuts.sort_unstable();
        let (mut out, mut done) = (String::with_capacity(line.len()), 0);
        for (from, to) in cuts {
            if from < done || line[from..].starts_with(HIDDEN) {
                continue;
            }
            self.add(&line[from..to]);
            out.push_str(&line[done..from]);
            out.push_str(HIDDEN);
            done = to;
        }
        out + &line[done..]
    }
}

/// Whether a key or a header is called like something secret.
pub fn names_a_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    NAMES.iter().any(|name| key.contains(name))
        || key.split('-').any(|part| matches!(part, "auth" | "cookie"))
        || key.starts_with("x-") && key.ends_with("-key")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_loses_its_secrets_and_nothing_else() {
        let text = r#"
            [agent]
            interfaces = ["eth0"]
            key_file = "/etc/zdd/key"
            otlp_headers = "authorization=Bearer sesame-1"
            [[service]]
            name = "web"
            vip = "10.0.0.10:80/tcp"
            udp = "stick"
            health = { http = "/h", expect_headers = ["X-Auth: sesame-9", "x-ready: yes"] }
            [[service]]
            health = { udp = "sesame-10" }
            [[service.rollout.analysis]]
            prometheus = { address = "http://reader:sesame-2@10.0.0.9:9090/sesame-11", query = "up{job=\"web\"}" }
            [[service.rollout.analysis]]
            exec = { argv = ["/bin/check", "--with", "sesame-3"] }
            [[service.rollout.hook]]
            webhook = "https://hooks.example.com/services/T0/sesame-4"
            otlp = "http://collector.example.com:4318/sesame-7/intake"
            url = "http://10.0.0.8/stats?k=sesame-8"
            alertmanager = "http://10.0.0.8/alertmanager"
            exec = ["/bin/tell", "sesame-5"]
            password = "sesame-6"
        "#;
        let mut secrets = Secrets::default();
        let shown = secrets.config(text);
        assert!(!shown.contains("sesame"), "{shown}");
        for kept in [
            "/etc/zdd/key",
            "eth0",
            "10.0.0.10:80/tcp",
            "@10.0.0.9:9090/",
            "up{job=",
            "/bin/check",
            "hooks.example.com/",
            "collector.example.com:4318/",
            "10.0.0.8/",
            "udp = \"stick\"",
            "x-ready: yes",
        ] {
            assert!(shown.contains(kept), "{kept} is gone: {shown}");
        }
        // What was secret there is secret everywhere.
        for said in
            ["sesame-1", "sesame-2", "sesame-3", "services/T0/sesame-4", "sesame-5", "sesame-6", "sesame-9"]
        {
            let said = secrets.text(&format!("it said {said}, twice: {said}"));
            assert!(!said.contains("sesame"), "{said}");
        }
        let said = "job alertmanager: no answer from http://10.0.0.8/alertmanager/api";
        assert_eq!(secrets.text(said), "job alertmanager: no answer from http://10.0.0.8[redacted]/api");
    }

    #[test]
    fn headers_that_carry_secrets_are_known_by_their_names() {
        for name in
            ["X-Auth", "Set-Cookie", "Proxy-Authorization", "x-api-key", "X-Signing-Key", "x-csrf-token"]
        {
            assert!(names_a_secret(name), "{name}");
        }
        for name in ["x-ready", "content-type", "authored-by", "key_file", "x-keyspace", "server"] {
            assert!(!names_a_secret(name), "{name}");
        }
    }

    #[test]
    fn whatever_a_secret_is_called_it_is_taken_out() {
        for name in [
            "password",
            "passwd",
            "secret",
            "token",
            "api_key",
            "apikey",
            "api-key",
            "authorization",
            "signature",
            "credential",
        ] {
            let told = Secrets::default().text(&format!("{name}=hush-1234 n=1"));
            assert_eq!(told, format!("{name}={HIDDEN} n=1"));
        }
    }

    #[test]
    fn what_looks_like_a_secret_is_taken_out_of_any_text() {
        let mut secrets = Secrets::default();
        for (text, shown) in [
            ("GET http://u:pw12@h/ and ftp://a@b/", "GET http://[redacted]@h/ and ftp://[redacted]@b/"),
            ("plain: http://10.0.0.1:9090/a@b", "plain: http://10.0.0.1:9090/a@b"),
            ("Authorization: Bearer abcdef", "Authorization: Bearer [redacted]"),
            (r#"{"password": "hunter22", "n": 1}"#, r#"{"password": "[redacted]", "n": 1}"#),
            (r#"{\"api_key\":\"k-1234\"}"#, r#"{\"api_key\":\"[redacted]\"}"#),
            ("DB_PASSWORD='p q'", "DB_PASSWORD='[redacted] q'"),
            ("tokens are counted", "tokens are counted"),
            ("a\n-----BEGIN PRIVATE KEY-----\nMII\n-----END PRIVATE KEY-----\nb\n", "a\n[redacted]\nb\n"),
        ] {
            assert_eq!(secrets.text(text), shown);
        }
        assert_eq!(secrets.text("again hunter22"), "again [redacted]");
    }
}
