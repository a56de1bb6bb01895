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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    #[test]
    fn a_body_that_is_not_all_there_goes_on_later() {
        let mut passage = Passage::default();
        let mut out = Vec::new();
        let mut splice = Splice::new(b"abc", &mut out);
        assert_eq!(passage.forward(5, 3, &mut splice), 3);
        assert_eq!((passage, splice.finish()), (Passage::Forward(2), &b"abc"[..]));
        let mut splice = Splice::new(b"defg", &mut out);
        assert_eq!(passage.resume(4, &mut splice), 2);
        assert_eq!(splice.finish(), b"de");
        assert!(passage.is_boundary());
        let mut splice = Splice::new(b"fg", &mut out);
        assert_eq!(passage.resume(2, &mut splice), 0, "nothing is under way");
        assert_eq!(splice.finish(), b"");
    }

    #[test]
    fn nothing_wanted_is_done_at_once() {
        let mut passage = Passage::default();
        let mut out = Vec::new();
        let mut splice = Splice::new(b"", &mut out);
        assert_eq!(passage.skip(0, 0, &mut splice), 0);
        assert!(passage.is_boundary());
        assert_eq!(passage.forward(1, 0, &mut splice), 0);
        assert_eq!(passage, Passage::Forward(1));
    }

    proptest! {
        #[test]
        fn any_cut_passes_the_same_bytes(
            bodies in vec((any::<bool>(), 0..12usize), 0..8),
            cuts in vec(1..9usize, 1..8),
        ) {
            let total: usize = bodies.iter().map(|(_, bytes)| bytes).sum();
            let input: Vec<u8> = (0..total).map(|at| u8::try_from(at).expect("few")).collect();
            let mut expected = Vec::new();
            let mut at = 0;
            for (is_kept, bytes) in &bodies {
                let body = input.get(at..at + bytes).expect("inside");
                expected.extend_from_slice(if *is_kept { body } else { &[] });
                at += bytes;
            }

            let mut passage = Passage::default();
            let mut passed = Vec::new();
            let mut bodies = bodies.iter();
            let mut rest = input.as_slice();
            let mut cuts = cuts.iter().cycle();
            while !rest.is_empty() {
                let cut = cuts.next().map_or(1, |cut| rest.len().min(*cut));
                let (piece, behind) = rest.split_at(cut);
                rest = behind;
                let mut out = Vec::new();
                let mut splice = Splice::new(piece, &mut out);
                let mut done = passage.resume(piece.len(), &mut splice);
                while done < piece.len() {
                    let (is_kept, bytes) = bodies.next().expect("a body");
                    let available = piece.len() - done;
                    done += if *is_kept {
                        passage.forward(*bytes, available, &mut splice)
                    } else {
                        passage.skip(*bytes, available, &mut splice)
                    };
                }
                passed.extend_from_slice(splice.finish());
            }
            prop_assert!(passage.is_boundary());
            prop_assert_eq!(passed, expected);
        }
    }
}
