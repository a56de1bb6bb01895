//! Forwards a buffer with cuts and insertions, copying only if there are any.
//!
//! The usual turn of the relay forwards what it read as it is: then [`Splice::finish`] returns a
//! slice of the input and nothing is copied. The first insertion or inner cut switches to `out`.

/// An input buffer on its way to the other side.
#[derive(Debug)]
pub struct Splice<'a> {
    input: &'a [u8],
    /// Start of the run that is being kept.
    kept_from: usize,
    /// End of the run that is being kept.
    kept_to: usize,
    out: &'a mut Vec<u8>,
}

impl<'a> Splice<'a> {
    /// Starts at the first byte of `input`. What `out` already holds goes first.
    pub fn new(input: &'a [u8], out: &'a mut Vec<u8>) -> Self {
        Self { input, kept_from: 0, kept_to: 0, out }
    }

    /// Forwards the next `count` bytes of the input.
    pub fn keep(&mut self, count: usize) {
        self.kept_to = self.kept_to.saturating_add(count).min(self.input.len());
    }

    /// Leaves out the next `count` bytes of the input.
    pub fn skip(&mut self, count: usize) {
        self.settle();
        self.kept_to = self.kept_to.saturating_add(count).min(self.input.len());
        self.kept_from = self.kept_to;
    }

    /// Returns the buffer to append to at this place.
    pub fn insert(&mut self) -> &mut Vec<u8> {
        self.settle();
        self.out
    }

    /// Returns what is to be sent: a part of the input, or `out`.
    pub fn finish(mut self) -> &'a [u8] {
        if self.out.is_empty() {
            return self.input.get(self.kept_from..self.kept_to).unwrap_or_default();
        }
        self.settle();
        self.out
    }

    fn settle(&mut self) {
        if let Some(run) = self.input.get(self.kept_from..self.kept_to) {
            self.out.extend_from_slice(run);
        }
        self.kept_from = self.kept_to;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_untouched_buffer_is_not_copied() {
        let mut out = Vec::new();
        let input = b"abcdef".to_vec();
        let mut splice = Splice::new(&input, &mut out);
        splice.skip(1);
        splice.keep(4);
        let sent = splice.finish();
        assert_eq!(sent, b"bcde");
        assert_eq!(sent.as_ptr(), input.get(1..).map_or(std::ptr::null(), <[u8]>::as_ptr));
    }

    #[test]
    fn cuts_and_insertions_land_where_they_were_made() {
        let mut out = b"<".to_vec();
        let mut splice = Splice::new(b"abcdef", &mut out);
        splice.keep(2);
        splice.insert().extend_from_slice(b"12");
        splice.keep(1);
        splice.skip(2);
        splice.keep(1);
        splice.insert().push(b'>');
        assert_eq!(splice.finish(), b"<ab12cf>");
    }
}
