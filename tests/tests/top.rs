//! `zdd top` on a real terminal: a pseudo-terminal, and an emulator that reads what is drawn. Needs root.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZero;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ExitStatus};

use zdd_tests::rig::{Error, Result, wait_for};
use zdd_tests::world::status::{number, version};
use zdd_tests::world::{LOOK_EVERY, PATIENCE, Setup, World, as_before, unharmed};

const ROWS: NonZero<u16> = NonZero::new(30).expect("not 0");
const COLUMNS: NonZero<u16> = NonZero::new(130).expect("not 0");

/// `zdd top` with a terminal of its own. Dropping it kills it.
struct Top {
    child: Child,
    master: File,
    /// Kept open, so that the terminal's settings can still be asked for when the program is gone.
    slave: OwnedFd,
    before: libc::termios,
    screen: vt100::Parser,
}

fn settings(terminal: &OwnedFd) -> libc::termios {
    // SAFETY: all zero is a valid buffer to be filled.
    let mut settings: libc::termios = unsafe { std::mem::zeroed() };
    // SAFETY: a live descriptor and a valid buffer.
    assert_eq!(unsafe { libc::tcgetattr(terminal.as_raw_fd(), &raw mut settings) }, 0);
    settings
}

impl Top {
    fn start(world: &World) -> Top {
        Self::start_as(world, "xterm-256color", (ROWS, COLUMNS))
    }

    fn start_as(world: &World, kind: &str, (rows, columns): (NonZero<u16>, NonZero<u16>)) -> Top {
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
        let mut command = world.zdd().command(&["top"]);
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
        let child = command.spawn().expect("zdd top starts");
        let screen = vt100::Parser::new(rows, columns, 0);
        Top { child, master: master.into(), slave, before, screen }
    }

    fn shown(&mut self) -> String {
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

    fn shows(&mut self, what: &str, words: &[&str]) -> Result<String> {
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

    fn press(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("typed");
    }

    /// Somebody drags the window's corner.
    fn resize(&mut self, rows: NonZero<u16>, columns: NonZero<u16>) {
        // What was drawn for the old size comes first.
        self.shown();
        self.screen.screen_mut().set_size(rows, columns);
        let size = libc::winsize { ws_row: rows.get(), ws_col: columns.get(), ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: a live descriptor and a valid structure.
        let set = unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        assert_eq!(set, 0, "a new size");
    }

    fn signal(&self, signal: i32) {
        // SAFETY: the child is not waited for yet, so the id is its own.
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }

    /// Waits for its end; the terminal must be as it was before.
    fn ends(mut self) -> Result<ExitStatus> {
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

fn share(world: &World, name: &str) -> Result<f64> {
    Ok(number(version(&world.status()?, "web", name), "share"))
}

#[test]
fn a_shift_and_a_rollback_are_made_on_the_screen_and_seen_there() -> Result<()> {
    let world = World::running(Setup { idle_ms: 60_000, ..Setup::default() })?;
    let load = world.load(10)?;
    let mut top = Top::start(&world);
    let first = top.shows("the first screen", &["web", "echo", "v2", "2/2", "connected", "q quit"])?;
    assert!(first.contains("100.00%") && top.screen.screen().alternate_screen(), "{first}");
    // Down twice: web, v1, v2. Letters, as a terminal sends arrows in two dialects.
    top.press("jjs25\r");
    top.shows("the question", &["zdd shift web v2=25%", "25.00% of new clients", "y does it"])?;
    assert_eq!(share(&world, "v2")?, 0.0, "not before it is confirmed");
    top.press("y");
    top.shows("the shift", &["done: zdd shift web v2=25%", "75.00%", "25.00%", "cells not settled"])?;
    assert!((share(&world, "v2")? - 0.25).abs() < 0.001);
    top.press("r");
    top.shows("the question", &["zdd rollback web", "25.00% of new clients"])?;
    top.press("n");
    top.shows("the refusal", &["not done: zdd rollback web"])?;
    assert!((share(&world, "v2")? - 0.25).abs() < 0.001, "n does nothing");
    top.press("r");
    top.shows("the question again", &["25.00% of new clients", "y does it"])?;
    top.press("y");
    top.shows("the rollback", &["done: zdd rollback web"])?;
    assert_eq!(share(&world, "v2")?, 0.0);
    as_before(&load)?;
    unharmed(&load.finish());
    top.press("q");
    assert!(top.ends()?.success());
    Ok(())
}

#[test]
fn an_agent_that_restarts_is_found_again_and_failures_are_told() -> Result<()> {
    let mut world = World::running(Setup::default())?;
    let mut top = Top::start(&world);
    top.shows("the first screen", &["connected"])?;
    world.set_health(&[4], false)?;
    top.shows("the failed backend", &["1/2 10.81.4.2:8080: "])?;
    world.kill_agent();
    top.shows("the loss", &["NO AGENT, reconnecting"])?;
    world.start_agent()?;
    top.shows("the agent", &["connected"])?;
    top.signal(libc::SIGTERM);
    assert!(top.ends()?.success());
    Ok(())
}

#[test]
fn without_a_terminal_or_an_agent_it_says_so() -> Result<()> {
    let mut world = World::running(Setup::default())?;
    world.refused(&["top"])?.says(1, &["needs a terminal", "help: use `zdd status --watch`"]);
    world.kill_agent();
    let mut top = Top::start(&world);
    top.shows("the complaint", &["no agent answers on", "help: start one"])?;
    assert_eq!(top.ends()?.code(), Some(4));
    Ok(())
}

const fn size(rows: u16, columns: u16) -> (NonZero<u16>, NonZero<u16>) {
    (NonZero::new(rows).expect("not 0"), NonZero::new(columns).expect("not 0"))
}

#[test]
fn any_size_of_the_terminal_will_do_and_it_may_change_at_any_time() -> Result<()> {
    let mut world = World::running(Setup::default())?;
    let mut top = Top::start_as(&world, "xterm-256color", size(5, 20));
    top.shows("the smallest screen", &["> web", "v1", "100.00%"])?;
    for (rows, columns) in [size(60, 300), size(1, 1), size(300, 20), size(2, 400)] {
        top.resize(rows, columns);
        // In a single cell there is nothing to be seen.
        wait_for("it to draw", PATIENCE, LOOK_EVERY, || {
            assert!(top.child.try_wait().expect("a child").is_none(), "it ended: {}", top.shown());
            Ok::<_, Error>((columns.get() == 1 || !top.shown().trim().is_empty()).then_some(()))
        })?;
    }
    // While there is no agent, too.
    world.kill_agent();
    let (rows, columns) = size(30, 130);
    top.resize(rows, columns);
    top.shows("the loss", &["NO AGENT, reconnecting", "OBSERVED", "q quit"])?;
    let (rows, columns) = size(14, 90);
    top.resize(rows, columns);
    world.start_agent()?;
    top.shows("the agent", &["connected", "> web", "q quit"])?;
    top.press("q");
    assert!(top.ends()?.success());
    Ok(())
}

#[test]
fn the_rollout_of_the_chosen_service_is_shown_with_its_handshakes() -> Result<()> {
    let rollout = "[service.rollout]\nstrategy = \"canary\"\nsteps = [{ weight = 25 }, { pause = \"until-promoted\" }]\n";
    let world = World::running(Setup {
        rollout: Some(rollout.to_owned()),
        idle_ms: 60_000,
        affinity: "flow",
        ..Setup::default()
    })?;
    let load = world.load(10)?;
    let mut top = Top::start(&world);
    top.shows("handshakes of both versions", &["web/v1  handshake", "web/v2  handshake", " ms "])?;
    assert!(!top.shown().contains("ROLLOUT"), "there is none yet");
    world.zdd().run(&["rollout", "start", "web", "v2"])?;
    top.shows(
        "the rollout",
        &["ROLLOUT 1 of web: v1 -> v2, canary, running at 25.00%", "done", "NOW", "waits for", "next"],
    )?;
    // It is the chosen service's: echo has none.
    top.press("jjj");
    let gone = wait_for("it to go", PATIENCE, LOOK_EVERY, || {
        let shown = top.shown();
        Ok::<_, Error>((shown.contains("> echo") && !shown.contains("ROLLOUT")).then_some(shown))
    })?;
    assert!(!gone.contains("handshake"), "{gone}");
    top.press("k");
    top.shows("it to come back", &["ROLLOUT 1 of web"])?;
    world.zdd().run(&["rollout", "abort", "web"])?;
    top.shows("the end", &["rolled-back at 0.00%"])?;
    unharmed(&load.finish());
    top.press("q");
    assert!(top.ends()?.success());
    Ok(())
}

#[test]
fn a_terminal_that_cannot_draw_is_told_what_to_use() -> Result<()> {
    let world = World::running_unchecked(Setup::default())?;
    let mut top = Top::start_as(&world, "dumb", (ROWS, COLUMNS));
    let said = top.shows("the complaint", &["type dumb", "help: use `zdd status --watch`"])?;
    assert!(!top.screen.screen().alternate_screen(), "{said}");
    assert_eq!(top.ends()?.code(), Some(1));
    Ok(())
}
