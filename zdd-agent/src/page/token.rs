//! The secret that a page needs to change something. It lies in a file that only the agent's user can read, so whoever can show it
//! could use the agent's socket as well.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Bytes of it.
const BYTES: usize = 16;

/// Why there is none.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} the page's token {}: {source}\nhelp: check agent.state_dir, or turn agent.page_actions off", .path.display())]
pub struct TokenError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Where it lies.
pub(super) fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("page-token")
}

/// What a record may say of a token: it tells two apart, and does not give one away.
pub(super) fn fingerprint(token: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, token.as_bytes());
    digest.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// The one that is there, or a new one: a restart of the agent locks nobody out.
pub(super) fn read_or_make(state_dir: &Path) -> Result<String, TokenError> {
    let path = path(state_dir);
    let failed = |what| {
        let path = path.clone();
        move |source| TokenError { what, path, source }
    };
    match std::fs::read_to_string(&path) {
        Ok(token) if token.trim().len() == 2 * BYTES => return Ok(token.trim().to_owned()),
        // Cut short by a crash, or not ours: made anew.
        Ok(_) => std::fs::remove_file(&path).map_err(failed("replace"))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("read")(error)),
    }
    let mut random = [0; BYTES];
    let source = File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut random));
    source.map_err(failed("make"))?;
    let token: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    std::fs::create_dir_all(state_dir).map_err(failed("write"))?;
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    made.and_then(|mut file| writeln!(file, "{token}")).map_err(failed("write"))?;
    Ok(token)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn it_is_random_private_and_kept() {
        let dir = std::env::temp_dir().join(format!("zdd-token-{}", std::process::id()));
        let first = read_or_make(&dir).unwrap();
        assert_eq!(std::fs::metadata(path(&dir)).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read_or_make(&dir).unwrap(), first);
        std::fs::write(path(&dir), "short").unwrap();
        let second = read_or_make(&dir).unwrap();
        assert!(second != first && second.len() == 2 * BYTES, "{second}");
        std::fs::remove_dir_all(dir).unwrap();
    }
}
