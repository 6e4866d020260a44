//! Putting the program on interfaces, so that it stays when the agent goes and is replaced without a gap.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, Xdp, XdpMode, loaded_programs};

use super::{DataplaneError, pins};
use crate::desired::AttachMode;

/// How an interface came to have our program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attached {
    /// Newly attached.
    New,
    /// The link was there, of an earlier run; its program was replaced atomically.
    Replaced,
}

/// Our links, by interface index. Dropping them does not detach: they are pinned.
#[derive(Debug, Default)]
pub(super) struct Links {
    held: BTreeMap<u32, FdLink>,
}

fn path_of(dir: &Path, ifindex: u32) -> PathBuf {
    dir.join("links").join(ifindex.to_string())
}

impl Links {
    /// Attaches to one interface. `present` is the id of an XDP program that is there now.
    pub(super) fn attach(
        &mut self,
        program: &mut Xdp,
        dir: &Path,
        (ifindex, name): (u32, &str),
        mode: AttachMode,
        present: Option<u32>,
    ) -> Result<Attached, DataplaneError> {
        let path = path_of(dir, ifindex);
        if path.exists() {
            match replace(program, &path) {
                Ok(link) => {
                    self.held.insert(ifindex, link);
                    return Ok(Attached::Replaced);
                }
                // The interface of that number is gone and another has it now: the link is dead.
                Err(_) => fs::remove_file(&path).map_err(|error| {
                    DataplaneError::kernel(format!("cannot remove {}", path.display()), error)
                })?,
            }
        }
        if let Some(id) = present {
            return Err(DataplaneError::Foreign {
                interface: name.to_owned(),
                program: program_name(id),
                id,
            });
        }
        let flag = match mode {
            AttachMode::Native => XdpMode::Driver,
            AttachMode::Generic => XdpMode::Skb,
        };
        let id = program.attach(ifindex, flag).map_err(|error| refused(name, mode, error))?;
        let link = program
            .take_link(id)
            .map_err(|error| DataplaneError::kernel(format!("cannot hold the link of {name}"), error))?;
        let link: FdLink = link.try_into().map_err(|error| {
            DataplaneError::kernel(format!("{name}: the kernel gave no link that can be pinned"), error)
        })?;
        let pinned = link
            .pin(&path)
            .map_err(|error| DataplaneError::kernel(format!("cannot pin the link of {name}"), error))?;
        self.held.insert(ifindex, pinned.into());
        Ok(Attached::New)
    }

    /// Detaches from one interface, or forgets one that is gone.
    pub(super) fn detach(&mut self, dir: &Path, ifindex: u32) -> std::io::Result<()> {
        self.held.remove(&ifindex);
        let path = path_of(dir, ifindex);
        if path.exists() { fs::remove_file(path) } else { Ok(()) }
    }
}

fn replace(program: &mut Xdp, path: &Path) -> Result<FdLink, ProgramError> {
    let link: FdLink = PinnedLink::from_pin(path).map_err(io_error)?.into();
    let link = XdpLink::try_from(link).map_err(io_error)?;
    let id = program.attach_to_link(link)?;
    let link = program.take_link(id)?;
    link.try_into().map_err(io_error)
}

fn io_error(error: LinkError) -> ProgramError {
    ProgramError::IOError(std::io::Error::other(error.to_string()))
}

fn refused(name: &str, mode: AttachMode, error: ProgramError) -> DataplaneError {
    let code = match &error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    };
    match (code, mode) {
        (Some(libc::EPERM | libc::EACCES), _) => {
            DataplaneError::Privileges { what: format!("attaching to {name}: {error}") }
        }
        (Some(libc::EBUSY | libc::EEXIST), _) => DataplaneError::Foreign {
            interface: name.to_owned(),
            program: "another program, in another mode".into(),
            id: 0,
        },
        (Some(libc::EOPNOTSUPP), AttachMode::Native) => {
            DataplaneError::Native { interface: name.to_owned(), reason: "its driver has no XDP".into() }
        }
        (Some(libc::EINVAL | libc::ERANGE | libc::ENOSPC), AttachMode::Native) => DataplaneError::Native {
            interface: name.to_owned(),
            reason: "the driver refused (MTU above what XDP takes, large receive offload, or too few queues)"
                .into(),
        },
        _ => DataplaneError::kernel(format!("cannot attach to {name}"), error),
    }
}

pub(super) fn program_name(id: u32) -> String {
    loaded_programs()
        .filter_map(Result::ok)
        .find(|info| info.id() == id)
        .and_then(|info| info.name_as_str().map(str::to_owned))
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "without a name".into())
}

/// Takes everything of zdd's out of the kernel: links, then maps. Needs no agent, and refuses while one runs.
pub fn detach(dir: &Path) -> Result<usize, DataplaneError> {
    if !dir.exists() {
        return Ok(0);
    }
    let (locked, _) = match pins::Pins::open(dir) {
        Err(DataplaneError::Layout { .. }) => {
            // Of another layout: to be removed all the same, that is the way out which the error names.
            return pins::remove_all(dir).map_err(|error| {
                DataplaneError::kernel(format!("cannot remove the pins in {}", dir.display()), error)
            });
        }
        other => other?,
    };
    let removed = pins::remove_all(&locked.dir).map_err(|error| {
        DataplaneError::kernel(format!("cannot remove the pins in {}", dir.display()), error)
    })?;
    Ok(removed)
}
