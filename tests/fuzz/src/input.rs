//! An input's bytes. Every sequence of bytes is one, so that no mutation is wasted:
//!
//! ```text
//! quotas (1 byte) · state of each service's two cells (1 byte each) · acts
//! act: 0-199 frame: 1 byte length / 2, bytes · 200-219 cell · 220-229 time · 230-239 admission · 240-255 next hop; 1 byte each
//! ```

/// Reads them.
pub struct Input<'a> {
    rest: &'a [u8],
}

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act<'a> {
    /// A frame comes in.
    Frame(&'a [u8]),
    /// A cell changes, settles or is forgotten.
    Cell(u8),
    /// So many steps of time pass.
    Time(u8),
    /// Other sources are admitted, and other limits hold.
    Admit(u8),
    /// A backend's next hop becomes another.
    Hop(u8),
}

/// Longest frame, twice the largest length byte.
pub const LONGEST: usize = 510;

impl<'a> Input<'a> {
    /// An input.
    pub fn of(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next byte; 0 at the end.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.rest.split_first() else { return 0 };
        self.rest = rest;
        *first
    }

    /// The next act.
    pub fn act(&mut self) -> Option<Act<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        let kind = self.byte();
        let argument = self.byte();
        Some(match kind {
            0..200 => {
                let length = (usize::from(argument) * 2).min(self.rest.len());
                let (frame, rest) = self.rest.split_at(length);
                self.rest = rest;
                Act::Frame(frame)
            }
            200..220 => Act::Cell(argument),
            220..230 => Act::Time(argument),
            230..240 => Act::Admit(argument),
            240.. => Act::Hop(argument),
        })
    }
}

/// Writes what [`Input`] reads.
#[derive(Default)]
pub struct Writer {
    /// So far.
    pub bytes: Vec<u8>,
}

impl Writer {
    /// Begins with a world.
    pub fn world(quotas: u8, cells: &[u8]) -> Self {
        Self { bytes: [&[quotas], cells].concat() }
    }

    /// A frame comes in. Padded to an even length, which is Ethernet's to do.
    pub fn frame(mut self, frame: &[u8]) -> Self {
        let even = frame.len().min(LONGEST).div_ceil(2);
        self.bytes.extend([0, even as u8]);
        self.bytes.extend(frame.iter().copied().chain([0]).take(even * 2));
        self
    }

    /// Another act, as the table above has it.
    pub fn act(mut self, kind: u8, argument: u8) -> Self {
        self.bytes.extend([kind, argument]);
        self
    }
}
