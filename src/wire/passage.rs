//! Where a byte stream stands between two reads.

use super::splice::Splice;

/// Position in a stream of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Passage {
    /// Between two messages.
    #[default]
    Boundary,
    /// Inside a body that is passed on; so many bytes of it are to come.
    Forward(usize),
    /// Inside a body that is left out; so many bytes of it are to come.
    Skip(usize),
}

impl Passage {
    /// Says whether the stream is between two messages.
    pub fn is_boundary(self) -> bool {
        self == Self::Boundary
    }

    /// Passes what is there of the body under way; returns how many bytes that were.
    pub fn resume(&mut self, available: usize, splice: &mut Splice<'_>) -> usize {
        match *self {
            Self::Boundary => 0,
            Self::Forward(left) => self.forward(left, available, splice),
            Self::Skip(left) => self.skip(left, available, splice),
        }
    }

    /// Passes on `wanted` bytes, now as many as are available and the others later.
    pub fn forward(&mut self, wanted: usize, available: usize, splice: &mut Splice<'_>) -> usize {
        let now = wanted.min(available);
        splice.keep(now);
        *self = if now == wanted { Self::Boundary } else { Self::Forward(wanted - now) };
        now
    }

    /// Leaves out `wanted` bytes, now as many as are available and the others later.
    pub fn skip(&mut self, wanted: usize, available: usize, splice: &mut Splice<'_>) -> usize {
        let now = wanted.min(available);
        splice.skip(now);
        *self = if now == wanted { Self::Boundary } else { Self::Skip(wanted - now) };
        now
    }
}
