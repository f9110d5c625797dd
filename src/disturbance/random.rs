//! Counter-based random numbers.
//!
//! Every number is a function of (seed, replica, entity, purpose, counter): nothing is drawn in
//! sequence from a shared generator, so adding an entity, a purpose or a thread changes nobody
//! else's numbers, and any number can be had without the ones before it.
//!
//! The function is Philox4x32 with ten rounds (Salmon et al., "Parallel random numbers: as easy as
//! 1, 2, 3", SC 2011), which passes `BigCrush`. The key is the seed and a hash of the replica; the
//! counter block holds a hash of entity and purpose and the running counter.

/// Multipliers and key increments of Philox4x32 (Salmon et al. 2011, section 4.3).
const MULTIPLIER: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// One block of Philox4x32-10.
#[must_use]
pub fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let mut c = counter;
    let mut k = key;
    for _ in 0..10 {
        let a = u64::from(MULTIPLIER[0]) * u64::from(c[0]);
        let b = u64::from(MULTIPLIER[1]) * u64::from(c[2]);
        c = [(b >> 32) as u32 ^ c[1] ^ k[0], b as u32, (a >> 32) as u32 ^ c[3] ^ k[1], a as u32];
        k = [k[0].wrapping_add(WEYL[0]), k[1].wrapping_add(WEYL[1])];
    }
    c
}

/// FNV-1a of a text, 64 bits: stable across versions and platforms, unlike the standard hasher.
#[must_use]
pub fn stable_hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// An independent sequence of random numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    key: [u32; 2],
    identity: u64,
    counter: u64,
}

impl Stream {
    /// The stream of an entity for a purpose, in a replica of a seeded experiment. `entity` is any
    /// number that names it (an index, or [`stable_hash`] of its path).
    #[must_use]
    pub fn new(seed: u64, replica: u64, entity: u64, purpose: &str) -> Self {
        // The replica is mixed into the key through Philox itself, so that neighbouring seeds and
        // replicas share nothing.
        let mixed = philox(
            [replica as u32, (replica >> 32) as u32, 0, 0],
            [seed as u32, (seed >> 32) as u32],
        );
        let named = philox(
            [entity as u32, (entity >> 32) as u32, 1, 0],
            [stable_hash(purpose) as u32, (stable_hash(purpose) >> 32) as u32],
        );
        Self {
            key: [mixed[0], mixed[1]],
            identity: u64::from(named[0]) | u64::from(named[1]) << 32,
            counter: 0,
        }
    }

    /// The number at a position, without moving.
    #[must_use]
    pub fn at(&self, counter: u64) -> u64 {
        let block = philox(
            [
                counter as u32,
                (counter >> 32) as u32,
                self.identity as u32,
                (self.identity >> 32) as u32,
            ],
            self.key,
        );
        u64::from(block[0]) | u64::from(block[1]) << 32
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        let value = self.at(self.counter);
        self.counter += 1;
        value
    }

    /// Uniform in the open interval (0, 1): never 0, so its logarithm is finite.
    pub fn uniform(&mut self) -> f64 {
        ((self.next_u64() >> 12) as f64 + 0.5) / (1_u64 << 52) as f64
    }

    /// Uniform below `bound`, without bias (Lemire 2019); 0 for a bound of 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 {
            return 0;
        }
        loop {
            let product = u128::from(self.next_u64()) * u128::from(bound);
            // Reject the few products that would make some results more likely than others.
            if product as u64 >= bound.wrapping_neg() % bound {
                return (product >> 64) as u64;
            }
        }
    }

    /// Standard normal (Box-Muller; two numbers each, so that the count per draw is fixed).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * self.uniform().ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// A random order of `0..n` (Fisher-Yates).
    pub fn permutation(&mut self, n: u32) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n).collect();
        for i in (1..order.len()).rev() {
            let j = self.below(i as u64 + 1) as usize;
            order.swap(i, j);
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of the Random123 distribution (kat_vectors, philox4x32 10).
    #[test]
    fn philox_gives_the_published_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
    }

    #[test]
    fn streams_are_independent_of_each_other() {
        let first = |entity, purpose| Stream::new(1, 0, entity, purpose).next_u64();
        let a = first(7, "link");
        let _ = first(8, "link");
        assert_eq!(a, first(7, "link"));
        let all = [
            a,
            first(8, "link"),
            first(7, "noise"),
            Stream::new(2, 0, 7, "link").next_u64(),
            Stream::new(1, 1, 7, "link").next_u64(),
        ];
        for (i, x) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|y| x != y));
        }
        let mut s = Stream::new(1, 0, 7, "link");
        let third = s.at(2);
        s.next_u64();
        s.next_u64();
        assert_eq!(s.next_u64(), third);
    }

    #[test]
    fn moments_are_right() {
        let mut s = Stream::new(3, 0, 0, "test");
        let n = 20_000;
        let uniform: f64 = (0..n).map(|_| s.uniform()).sum::<f64>() / f64::from(n);
        assert!((uniform - 0.5).abs() < 0.01, "{uniform}");
        let normal: Vec<f64> = (0..n).map(|_| s.normal()).collect();
        let mean = normal.iter().sum::<f64>() / f64::from(n);
        let variance = normal.iter().map(|x| x * x).sum::<f64>() / f64::from(n);
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
        let mut order = s.permutation(100);
        order.sort_unstable();
        assert!(order.iter().copied().eq(0..100));
    }
}
