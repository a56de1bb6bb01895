//! Bytes that must not leak: wiped when dropped, redacted when printed.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::Zeroize;

/// A password, or a key derived from one.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Takes `bytes` into custody.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// Shows the bytes; the caller must not store or print them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}
