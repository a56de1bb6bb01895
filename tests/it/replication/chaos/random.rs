//! Random numbers that come again with the same seed.

/// xorshift64*, which is good enough to choose disasters.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit
    }

    /// A place in a list of this length.
    pub fn place(&mut self, length: usize) -> usize {
        let length = u64::try_from(length).expect("lists are short");
        usize::try_from(self.below(length)).expect("it is below the length")
    }

    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.place(list.len())]
    }

    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for end in (1..list.len()).rev() {
            let place = self.place(end + 1);
            list.swap(end, place);
        }
    }
}
