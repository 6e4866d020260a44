//! The log on standard error, as text or JSON, and its level, which can change while the agent runs.

use std::io::IsTerminal;
use std::sync::OnceLock;

use anyhow::Context;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::text::Unreadable;

/// What the running log's level is changed by; empty until [`start`].
static LEVEL: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Starts the log; `ZDD_LOG` chooses what goes into it (default `info`). `json`: a line of JSON for each event, with its fields
/// beside its message.
///
/// # Errors
/// `ZDD_LOG` cannot be read.
pub fn start(json: bool) -> anyhow::Result<()> {
    let asked = std::env::var("ZDD_LOG").unwrap_or_default();
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::Level::INFO.into())
        .parse(of_zdd(&asked))
        .context("ZDD_LOG cannot be read\nhelp: write a level as info, or info,zdd_agent=debug")?;
    let (filter, handle) = reload::Layer::new(filter);
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = if json {
        lines.json().flatten_event(true).with_span_list(false).boxed()
    } else {
        lines.with_ansi(std::io::stderr().is_terminal()).boxed()
    };
    tracing_subscriber::registry().with(filter).with(lines).init();
    // A second start would have failed above.
    drop(LEVEL.set(handle));
    Ok(())
}

/// A plain level above `info` is meant for zdd: its libraries would tell of every frame that they send, the answer to this very
/// command included, and bury what was asked for. Whoever wants that names them.
fn of_zdd(directives: &str) -> String {
    match directives.trim().to_ascii_lowercase().as_str() {
        level @ ("debug" | "trace") => format!("info,zdd_agent={level},zdd_common={level}"),
        _ => directives.trim().to_owned(),
    }
}

/// What goes into the log now, in the form in which it can be asked for.
///
/// # Errors
/// There is no log.
pub fn present() -> Result<String, Unreadable> {
    let none = || Unreadable("this process keeps no log".to_owned());
    LEVEL.get().and_then(|handle| handle.with_current(ToString::to_string).ok()).ok_or_else(none)
}

/// Changes what goes into the log, until the agent ends: a level, or directives as in `ZDD_LOG`. Returns what it was before.
///
/// # Errors
/// It makes no sense, or there is no log.
pub fn change(directives: &str) -> Result<String, Unreadable> {
    let wrong = |why: String| {
        Unreadable(format!(
            "`{directives}` is no log level: {why}\nhelp: write info, debug, or info,zdd_agent::health=debug"
        ))
    };
    // Else it would be taken for the name of a module, and everything would fall silent.
    let word = directives.trim();
    let plain = !word.contains(['=', ',', '[']);
    if word.is_empty() || (plain && word.parse::<tracing::level_filters::LevelFilter>().is_err()) {
        return Err(wrong("there are off, error, warn, info, debug and trace".to_owned()));
    }
    let filter = EnvFilter::try_new(of_zdd(word)).map_err(|error| wrong(error.to_string()))?;
    let handle = LEVEL.get().ok_or_else(|| Unreadable("this process keeps no log".to_owned()))?;
    let mut before = String::new();
    handle
        .modify(|now| {
            before = now.to_string();
            *now = filter;
        })
        .map_err(|error| wrong(error.to_string()))?;
    Ok(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_level_leaves_libraries_at_info() {
        assert_eq!(of_zdd("debug"), "info,zdd_agent=debug,zdd_common=debug");
        assert_eq!(of_zdd(" TRACE "), "info,zdd_agent=trace,zdd_common=trace");
        for asked in ["", "info", "warn", "off", "debug,h2=info", "h2=trace"] {
            assert_eq!(of_zdd(asked), asked);
        }
    }

    #[test]
    fn what_is_no_level_is_refused_before_the_log_is_looked_for() {
        for text in ["", "loud", "zdd_agent", "info,zdd_agent=loud"] {
            let why = change(text).unwrap_err().0;
            assert!(why.contains("is no log level"), "{text}: {why}");
        }
        assert!(change("info,zdd_agent::health=debug").unwrap_err().0.contains("keeps no log"));
    }
}
