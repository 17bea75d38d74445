//! A value that never prints itself.

use std::fmt;

/// Holds a secret. There is no `Display` and no `Serialize`, and `Debug` prints stars, so that a
/// secret can only leave through [`Secret::expose`], which is easy to find.
#[derive(Clone)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    /// Wraps a value.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself, for the one place that needs it.
    pub const fn expose(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
