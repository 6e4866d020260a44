//! Lets tests end the agent before a write of their choice, as a kill would: debug builds only.
//!
//! The environment variable `ZDD_DIE_BEFORE_WRITE` names a file. While there is one, it holds either how many more writes this process may
//! make, and a word that tells one such order from the next; or, one a line, before which kinds of writes it dies. The write that is not
//! made ends the process, and leaves in the file what it was.

macro_rules! writes {
    ($($kind:ident $name:literal,)*) => {
        /// Kinds of writes to the kernel's tables.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Write {
            $(#[doc = concat!("Writes ", $name, ".")] $kind,)*
        }

        impl Write {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            /// As the file says it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }
        }
    };
}

writes! {
    Address "an address's end",
    Backend "a backend",
    Claim "a line's claim",
    Commit "a commit",
    Counters "counters",
    End "an end",
    EndEnd "an end's end",
    Entry "an entry",
    Followed "a followed flow",
    IdleTime "an idle time",
    Layout "the layout",
    Line "a line",
    LineEnd "a line's end",
    Local "a local address",
    LocalEnd "a local address's end",
    Mapping "a mapping",
    NextHop "a next hop",
    Pace "a pace",
    Pool "a pool",
    Port "a port",
    Program "a program",
    Quota "a quota",
    QuotaLimit "a quota's limit",
    Redirect "a redirect",
    Row "a row",
    Service "a service",
    Sketch "a sketch",
    Source "a source",
    SourceEnd "a source's end",
    Span "a span",
    SpanEnd "a span's end",
    Trace "a trace",
    Wanted "a wanted neighbour",
}

/// A write to the kernel's tables comes next.
#[cfg(debug_assertions)]
pub(super) fn before(write: Write) {
    use std::path::PathBuf;
    use std::sync::{LazyLock, Mutex};

    static FILE: LazyLock<Option<PathBuf>> =
        LazyLock::new(|| std::env::var_os("ZDD_DIE_BEFORE_WRITE").map(PathBuf::from));
    /// The order that is being followed, and the writes made since it came.
    static MADE: Mutex<(String, u32)> = Mutex::new((String::new(), 0));
    let Some(file) = &*FILE else { return };
    let Ok(order) = std::fs::read_to_string(file) else { return };
    let may = order.split(' ').next().and_then(|number| number.parse::<u32>().ok());
    let dies = match may {
        None => order.lines().any(|kind| kind == write.name()),
        Some(may) => {
            let Ok(mut made) = MADE.lock() else { return };
            if made.0 != order {
                *made = (order, 0);
            }
            made.1 += 1;
            made.1 > may
        }
    };
    if dies {
        // A file that cannot be written is the test's to see: it waits for a death.
        let _ = std::fs::write(file, format!("died before {}", write.name()));
        std::process::abort();
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub(super) fn before(_write: Write) {}
