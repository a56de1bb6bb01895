//! Why a client keeps its backend between transactions although its pool would not.

/// A set of reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pins(u16);

impl Pins {
    /// It ran SQL `PREPARE`: the name exists on that backend only.
    pub const PREPARE: Self = Self(1);
    /// It ran `LISTEN`: notifications come to that backend only.
    pub const LISTEN: Self = Self(1 << 1);
    /// It holds advisory locks of the session.
    pub const LOCK: Self = Self(1 << 2);
    /// It has temporary objects.
    pub const TEMPORARY: Self = Self(1 << 3);
    /// It has cursors `WITH HOLD`.
    pub const CURSOR: Self = Self(1 << 4);
    /// It has set parameters that do not go with it.
    pub const PARAMETER: Self = Self(1 << 5);
    /// It did something that only the end of the session takes back, such as `setseed`.
    pub const LASTING: Self = Self(1 << 6);
    /// It ran something that nobody can look into.
    pub const UNKNOWN: Self = Self(1 << 7);

    /// Says whether there is no reason.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Says whether one of these reasons is given.
    pub fn has(self, pins: Self) -> bool {
        self.0 & pins.0 != 0
    }

    /// Adds reasons.
    pub fn add(&mut self, pins: Self) {
        self.0 |= pins.0;
    }

    /// Takes reasons away.
    pub fn remove(&mut self, pins: Self) {
        self.0 &= !pins.0;
    }

    /// Returns the reasons of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns the reasons that are in both.
    #[must_use]
    pub fn within(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Returns the reasons without those of `other`.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}
