//! A program says how a backend is; a scripted transaction is one. Exit 0 is success.

use std::time::Duration;

use super::ProbeFailure;
use crate::health::checker::Question;
use crate::program;

pub(super) async fn run(argv: &[String], question: &Question) -> Result<(), ProbeFailure> {
    let (address, ip, port) = (
        question.address.to_string(),
        question.address.ip().to_string(),
        question.address.port().to_string(),
    );
    let variables = [
        ("ZDD_SERVICE", question.service.as_str()),
        ("ZDD_VERSION", question.version.as_str()),
        ("ZDD_BACKEND", address.as_str()),
        ("ZDD_ADDRESS", ip.as_str()),
        ("ZDD_PORT", port.as_str()),
    ];
    // The caller's timeout ends it in time, and drops it: with it goes whatever it has started. This one is only for words.
    let within = question.timeout + Duration::from_secs(1);
    match program::run(argv, &variables, "", within).await.map_err(ProbeFailure::Wrong)? {
        (Some(0), _) => Ok(()),
        (Some(code), said) => Err(ProbeFailure::Wrong(format!("exit {code} {said}").trim_end().to_owned())),
        (None, _) => Err(ProbeFailure::Wrong(format!("{} was killed", argv[0]))),
    }
}
