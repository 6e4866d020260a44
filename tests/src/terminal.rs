//! `zdd top`, and commands that watch, on a real terminal: a pseudo-terminal, and an emulator that reads what is drawn.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZero;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ExitStatus};

use crate::rig::{Error, Result, wait_for};
use crate::world::{LOOK_EVERY, PATIENCE, World};

/// Lines of the screen unless a test wants others.
pub const ROWS: NonZero<u16> = NonZero::new(30).expect("not 0");
/// Columns of the screen unless a test wants others.
pub const COLUMNS: NonZero<u16> = NonZero::new(130).expect("not 0");

/// `zdd top`, or another command, with a terminal of its own. Dropping it kills it.
pub struct Top {
    /// The program.
    pub child: Child,
    master: File,
    /// Kept open, so that the terminal's settings can still be asked for when the program is gone.
    slave: OwnedFd,
    before: libc::termios,
    /// What is drawn.
    pub screen: vt100::Parser,
}

fn settings(terminal: &OwnedFd) -> libc::termios {
    // SAFETY: all zero is a valid buffer to be filled.
    let mut settings: libc::termios = unsafe { std::mem::zeroed() };
    // SAFETY: a live descriptor and a valid buffer.
    assert_eq!(unsafe { libc::tcgetattr(terminal.as_raw_fd(), &raw mut settings) }, 0);
    settings
}

impl Top {
    /// In a terminal that any program can draw on.
    pub fn start(world: &World) -> Top {
        Self::start_as(world, "xterm-256color", (ROWS, COLUMNS))
    }

    /// In a terminal of this kind and size.
    ///
    /// # Panics
    /// When there is no pseudo-terminal, or the program does not start.
    pub fn start_as(world: &World, kind: &str, size: (NonZero<u16>, NonZero<u16>)) -> Top {
        Self::start_command(world, &["top"], kind, size)
    }

    /// Any command of `zdd`, where a person sits in front of it.
    ///
    /// # Panics
    /// As for [`start_as`](Self::start_as).
    pub fn start_command(
        world: &World,
        args: &[&str],
        kind: &str,
        (rows, columns): (NonZero<u16>, NonZero<u16>),
    ) -> Top {
        let (mut master, mut slave) = (-1, -1);
        let size = libc::winsize { ws_row: rows.get(), ws_col: columns.get(), ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: valid pointers; no name and no settings are asked for.
        let opened = unsafe {
            libc::openpty(
                &raw mut master,
                &raw mut slave,
                std::ptr::null_mut(),
                std::ptr::null(),
                &raw const size,
            )
        };
        assert_eq!(opened, 0, "a pseudo-terminal");
        // SAFETY: new descriptors that nobody else owns.
        let (master, slave) = unsafe { (OwnedFd::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) };
        for fd in [&master, &slave] {
            // SAFETY: plain system calls on live descriptors.
            unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) };
        }
        // SAFETY: as above.
        unsafe { libc::fcntl(master.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
        let before = settings(&slave);
        let end = || slave.try_clone().expect("a descriptor");
        let mut command = world.zdd().command(args);
        command.env("TERM", kind).stdin(end()).stdout(end()).stderr(end());
        // SAFETY: between fork and exec only two system calls, which are async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                if libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn().expect("zdd starts");
        let screen = vt100::Parser::new(rows, columns, 0);
        Top { child, master: master.into(), slave, before, screen }
    }

    /// What is on the screen now.
    pub fn shown(&mut self) -> String {
        let mut bytes = [0; 4096];
        // Ends when nothing more has come yet.
        while let Ok(n) = self.master.read(&mut bytes) {
            if n == 0 {
                break;
            }
            self.screen.process(&bytes[..n]);
        }
        self.screen.screen().contents()
    }

    /// Waits until all of these words are on the screen.
    pub fn shows(&mut self, what: &str, words: &[&str]) -> Result<String> {
        let mut last = String::new();
        let found = wait_for(what, PATIENCE, LOOK_EVERY, || {
            last = self.shown();
            Ok(words.iter().all(|word| last.contains(word)).then(|| last.clone()))
        });
        found.map_err(|e: Error| match e {
            Error::Timeout { what, waited_ms, .. } => {
                Error::Timeout { what, waited_ms, detail: format!("; the screen:\n{last}") }
            }
            other => other,
        })
    }

    /// Types.
    ///
    /// # Panics
    /// When the terminal is gone.
    pub fn press(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("typed");
    }

    /// Somebody drags the window's corner.
    ///
    /// # Panics
    /// When the terminal takes no new size.
    pub fn resize(&mut self, rows: NonZero<u16>, columns: NonZero<u16>) {
        // What was drawn for the old size comes first.
        self.shown();
        self.screen.screen_mut().set_size(rows, columns);
        let size = libc::winsize { ws_row: rows.get(), ws_col: columns.get(), ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: a live descriptor and a valid structure.
        let set = unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        assert_eq!(set, 0, "a new size");
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: the child is not waited for yet, so the id is its own.
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }

    /// Waits for its end; the terminal must be as it was before.
    ///
    /// # Panics
    /// When it is not.
    pub fn ends(mut self) -> Result<ExitStatus> {
        let status = wait_for("zdd top to end", PATIENCE, LOOK_EVERY, || {
            self.shown();
            Ok::<_, Error>(self.child.try_wait().expect("a child"))
        })?;
        self.shown();
        let after = settings(&self.slave);
        assert_eq!(
            (after.c_iflag, after.c_oflag, after.c_lflag),
            (self.before.c_iflag, self.before.c_oflag, self.before.c_lflag)
        );
        let screen = self.screen.screen();
        assert!(!screen.alternate_screen() && !screen.hide_cursor(), "the screen is given back");
        Ok(status)
    }
}

impl Drop for Top {
    fn drop(&mut self) {
        // One that has ended already is no error.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
