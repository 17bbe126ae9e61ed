//! Changes of inputs, by numbers that are always the same.

/// The longest input: what matters to parsers fits, and a run stays short.
const MAX_INPUT: usize = 256 * 1024;

/// Numbers at which parsers break.
const NUMBERS: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0xffff_ffff_ffff_ffff,
];

/// Texts that mean something to one of the parsers.
const WORDS: [&[u8]; 16] = [
    b"..",
    b"/",
    b"\"",
    b"\\",
    b"labels.",
    b"~=",
    b"{",
    b"[",
    b"sha256:",
    b"null",
    b"1e999",
    b"-1",
    b"\xff",
    b"PaxHeader",
    b"\x28\xb5\x2f\xfd",
    b"\x1f\x8b\x08",
];

/// A generator of changed inputs.
#[derive(Debug)]
pub struct Mutator(u64);

impl Mutator {
    /// The generator whose sequence begins at `start`.
    #[must_use]
    pub fn new(start: u64) -> Self {
        Mutator(start)
    }

    /// The next number (splitmix64).
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end.max(1)).unwrap_or(u64::MAX);
        usize::try_from(self.next() % end).unwrap_or(0)
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }

    /// One of `inputs`, changed in a few places.
    pub fn change(&mut self, inputs: &[Vec<u8>]) -> Vec<u8> {
        let mut data = match inputs.len() {
            0 => Vec::new(),
            count => inputs[self.below(count)].clone(),
        };
        // Mostly few changes: the outer layers of a format have to hold for the inner ones.
        for _ in 0..=self.below(4) {
            self.change_once(&mut data, inputs);
        }
        data.truncate(MAX_INPUT);
        data
    }

    fn change_once(&mut self, data: &mut Vec<u8>, inputs: &[Vec<u8>]) {
        let at = self.below(data.len() + 1);
        let rest = data.len() - at;
        match self.below(9) {
            0 => {
                if let Some(byte) = data.get_mut(at) {
                    *byte ^= 1 << (self.0 % 8);
                }
            }
            1 => {
                let value = self.next().to_le_bytes()[0];
                if let Some(byte) = data.get_mut(at) {
                    *byte = value;
                }
            }
            2 => {
                let number = NUMBERS[self.below(NUMBERS.len())];
                let width = 1 << self.below(4);
                let mut bytes = number.to_le_bytes();
                if self.below(2) == 0 {
                    bytes[..width].reverse();
                }
                for (place, byte) in data[at..].iter_mut().zip(&bytes[..width]) {
                    *place = *byte;
                }
            }
            3 => {
                let count = self.below(rest.min(64) + 1);
                data.drain(at..at + count);
            }
            4 => {
                let word = self.pick(&WORDS);
                data.splice(at..at, word.iter().copied());
            }
            5 => {
                let count = self.below(rest.min(1024) + 1);
                let copy = data[at..at + count].to_vec();
                let to = self.below(data.len() + 1);
                data.splice(to..to, copy);
            }
            6 => data.truncate(at),
            7 => {
                if inputs.is_empty() {
                    return;
                }
                let other = &inputs[self.below(inputs.len())];
                let from = self.below(other.len() + 1);
                let count = self.below((other.len() - from).min(4096) + 1);
                let end = at + count.min(rest);
                data.splice(at..end, other[from..from + count].iter().copied());
            }
            _ => {
                // A digit, which in many formats is part of a length.
                let digits: Vec<usize> = data
                    .iter()
                    .enumerate()
                    .filter(|(_, byte)| byte.is_ascii_digit())
                    .map(|(place, _)| place)
                    .collect();
                if !digits.is_empty() {
                    let place = digits[self.below(digits.len())];
                    data[place] = b'0' + self.next().to_le_bytes()[0] % 10;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_start_gives_the_same_inputs() {
        let inputs = [b"one two 3".to_vec(), vec![0; 100]];
        let run = |start| {
            let mut mutator = Mutator::new(start);
            (0..1000).map(|_| mutator.change(&inputs)).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        assert!(Mutator::new(1).change(&[]).len() < MAX_INPUT);
    }
}
