//! Headless Chromium inside a namespace, told what to do over WebDriver (W3C): the few commands that looking at a page needs. The
//! client crates for it bring a TLS stack and hundreds of thousands of lines for the sake of commands that are one line of JSON each.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use serde_json::{Value, json};

use crate::rig::{Error, Proc, Result, Rig, run, wait_for};

/// Where ChromeDriver listens, inside the namespace.
const DRIVER: &str = "http://127.0.0.1:9515";
/// A browser's first start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A browser with one window. Everything of it ends with the namespace, and before that when this is dropped.
#[derive(Debug)]
pub struct Browser {
    ns: PathBuf,
    session: String,
    _driver: Proc,
}

impl Browser {
    /// Starts it in the namespace of `role`; `dark`: as on a machine whose user prefers dark pages.
    ///
    /// # Panics
    /// When ChromeDriver answers what it should not.
    pub fn start(rig: &Rig, role: &str, dark: bool) -> Result<Self> {
        let ns = rig.ns(role);
        let profile = rig.scratch().path(if dark { "chromium-dark" } else { "chromium" });
        let mut command = Command::new("chromedriver");
        command.arg("--port=9515").env("HOME", &profile).env("TMPDIR", rig.scratch().dir());
        std::fs::create_dir_all(&profile).map_err(Error::io(format!("create {}", profile.display())))?;
        let driver = ns.spawn_logged(command, &rig.scratch().path("chromedriver.log"))?;
        let mut args = vec![
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
        ];
        if dark {
            args.push("--force-dark-mode");
            args.push("--blink-settings=preferredColorScheme=0");
        }
        let data = format!("--user-data-dir={}", profile.display());
        args.push(&data);
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": { "args": args, "binary": "/usr/bin/chromium" },
            "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let mut browser = Browser { ns: ns.path(), session: String::new(), _driver: driver };
        wait_for("ChromeDriver", PATIENCE, Duration::from_millis(50), || {
            Ok::<_, Error>(browser.ask("GET", "/status", None).ok().filter(|said| said["ready"] == true))
        })?;
        let said = browser.ask("POST", "/session", Some(wanted))?;
        browser.session = said["sessionId"].as_str().expect("a session").to_owned();
        Ok(browser)
    }

    fn curl(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.ns.display())).arg("curl");
        command
    }

    fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Result<Value> {
        let mut command = self.curl();
        command.args(["--silent", "--show-error", "--max-time", "60", "-X", method]);
        if let Some(body) = body {
            command.args(["-H", "content-type: application/json", "-d", &body.to_string()]);
        }
        command.arg(format!("{DRIVER}{path}"));
        let text = run(command)?;
        let answer: Value = serde_json::from_str(&text).map_err(|source| Error::Json {
            command: format!("WebDriver {path}"),
            source,
            output: text.chars().take(400).collect(),
        })?;
        let value = answer["value"].clone();
        match value["error"].as_str() {
            Some(error) => panic!("WebDriver {path}: {error}: {}", value["message"]),
            None => Ok(value),
        }
    }

    fn tell(&self, command: &str, body: Value) -> Result<Value> {
        self.ask("POST", &format!("/session/{}/{command}", self.session), Some(body))
    }

    /// Opens a page.
    pub fn open(&self, url: &str) -> Result<()> {
        self.tell("url", json!({ "url": url })).map(drop)
    }

    /// Sets the size of what is shown, in CSS pixels, as a phone or a screen of that size has it.
    pub fn resize(&self, width: u32, height: u32) -> Result<()> {
        let params = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        let body = json!({ "cmd": "Emulation.setDeviceMetricsOverride", "params": params });
        self.tell("goog/cdp/execute", body).map(drop)
    }

    /// Runs the body of a function in the page and returns what it returns.
    pub fn script(&self, body: &str) -> Result<Value> {
        self.tell("execute/sync", json!({ "script": body, "args": [] }))
    }

    /// Waits until `body` returns something that is not null, false or empty.
    pub fn wait(&self, what: &str, body: &str) -> Result<Value> {
        let mut last = Value::Null;
        let found = wait_for(what, PATIENCE, Duration::from_millis(100), || {
            last = self.script(body)?;
            let nothing = last.is_null() || last == false || last == "";
            Ok((!nothing).then(|| last.clone()))
        });
        found.map_err(|error: Error| match error {
            Error::Timeout { what, waited_ms, .. } => {
                let text = self.script("return document.body.innerText").unwrap_or_default();
                Error::Timeout { what, waited_ms, detail: format!("; last: {last}; the page: {text}") }
            }
            other => other,
        })
    }

    /// What the page wrote to its console as a warning or an error, and what the browser refused to do for it.
    ///
    /// # Panics
    /// When the log cannot be read.
    pub fn complaints(&self) -> Result<Vec<String>> {
        let entries = self.tell("se/log", json!({ "type": "browser" }))?;
        let entries = entries.as_array().expect("a log").iter();
        let bad = entries.filter(|entry| entry["level"] == "SEVERE" || entry["level"] == "WARNING");
        Ok(bad.map(|entry| entry["message"].as_str().unwrap_or_default().to_owned()).collect())
    }

    /// The whole page as a PNG file.
    ///
    /// # Panics
    /// When what comes is no picture.
    pub fn picture(&self, path: &Path) -> Result<()> {
        let body = json!({ "cmd": "Page.captureScreenshot", "params": { "captureBeyondViewport": true } });
        let said = self.tell("goog/cdp/execute", body)?;
        let text = said["data"].as_str().expect("a picture");
        let bytes = base64::engine::general_purpose::STANDARD.decode(text).expect("base64");
        assert!(bytes.starts_with(b"\x89PNG"), "no PNG");
        std::fs::write(path, bytes).map_err(Error::io(format!("write {}", path.display())))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if self.session.is_empty() {
            return;
        }
        // Ends Chromium too. If it does not, the end of the namespace does; a panic here would hide the first one.
        let mut command = self.curl();
        command.args(["--silent", "--max-time", "20", "-X", "DELETE"]);
        command.arg(format!("{DRIVER}/session/{}", self.session));
        drop(run(command));
    }
}
