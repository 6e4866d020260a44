//! Another revision's object, built in a git worktree that is removed again.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use zdd_common::limits::LAYOUT;

use super::object;

/// Builds the XDP object of revision `rev`.
pub(super) fn object(root: &Path, rev: &str, target_dir: &Path) -> Result<Vec<u8>> {
    let worktree = Worktree::add(root, rev)?;
    let layout = layout(&worktree.dir)?;
    ensure!(
        layout == LAYOUT,
        "{rev} has map layout {layout}, this revision {LAYOUT}: the bench cannot fill its maps; compare the two bench runs instead"
    );
    let tools = worktree.dir.join(".tools");
    if !tools.exists() {
        std::os::unix::fs::symlink(root.join(".tools"), &tools).context("link .tools")?;
    }
    let path = object::build(&worktree.dir, "zdd", &target_dir.join("base"))?;
    std::fs::read(&path).with_context(|| path.display().to_string())
}

/// A detached worktree, gone when dropped.
struct Worktree {
    root: PathBuf,
    dir: PathBuf,
}

impl Worktree {
    fn add(root: &Path, rev: &str) -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("zdd-{}-base", std::process::id()));
        // Made before git is asked: whatever git does halfway is removed, too.
        let this = Self { root: root.to_owned(), dir };
        let status = Command::new("git")
            .arg("-C")
            .arg(root)
            .args(["worktree", "add", "--quiet", "--detach"])
            .arg(&this.dir)
            .arg(rev)
            .status()
            .context("git")?;
        ensure!(status.success(), "git cannot check out {rev}");
        Ok(this)
    }
}

impl Drop for Worktree {
    fn drop(&mut self) {
        // Best effort: the error that matters is the caller's.
        let git = |args: &[&str]| {
            let _ = Command::new("git").arg("-C").arg(&self.root).args(args).arg(&self.dir).status();
        };
        if self.dir.exists() {
            let _ = std::fs::remove_file(self.dir.join(".tools"));
            git(&["worktree", "remove", "--force"]);
        }
    }
}

/// The layout number that a workspace's source states.
fn layout(root: &Path) -> Result<u32> {
    let file = root.join("zdd-common/src/limits.rs");
    let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let number =
        text.lines().find_map(|line| line.trim().strip_prefix("pub const LAYOUT: u32 = ")?.strip_suffix(';'));
    match number.map(str::parse) {
        Some(Ok(number)) => Ok(number),
        _ => bail!("no LAYOUT in {}", file.display()),
    }
}
