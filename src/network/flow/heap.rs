//! A four-ary min-heap of transfers by completion time that knows where each stands, so that a
//! changed time moves its entry instead of leaving a stale one. Push, pop and move cost
//! O(log n); ties go to the smaller transfer, so the order never depends on history.

/// Not in the heap.
const OUT: u32 = u32::MAX;

#[derive(Clone, Debug, Default)]
pub(super) struct Heap {
    entries: Vec<(f64, u32)>,
    place: Vec<u32>,
}

impl Heap {
    /// Empties it and makes room for transfers `0..n`.
    pub(super) fn reset(&mut self, n: usize) {
        self.entries.clear();
        self.place.clear();
        self.place.resize(n, OUT);
    }

    pub(super) fn peek(&self) -> Option<(f64, u32)> {
        self.entries.first().copied()
    }

    /// Sets the time of a transfer, entering it where it is not in yet.
    pub(super) fn set(&mut self, transfer: u32, time: f64) {
        let at = self.place[transfer as usize];
        if at == OUT {
            self.entries.push((time, transfer));
            let at = self.entries.len() - 1;
            self.place[transfer as usize] = at as u32;
            self.up(at);
        } else {
            let at = at as usize;
            let before = self.entries[at].0;
            self.entries[at].0 = time;
            if time < before {
                self.up(at);
            } else {
                self.down(at);
            }
        }
    }

    pub(super) fn pop(&mut self) -> Option<(f64, u32)> {
        let first = self.peek()?;
        self.place[first.1 as usize] = OUT;
        if let Some(last) = self.entries.pop()
            && !self.entries.is_empty()
        {
            self.entries[0] = last;
            self.place[last.1 as usize] = 0;
            self.down(0);
        }
        Some(first)
    }

    fn before(a: (f64, u32), b: (f64, u32)) -> bool {
        a.0 < b.0 || (a.0 == b.0 && a.1 < b.1)
    }

    fn up(&mut self, mut at: usize) {
        let entry = self.entries[at];
        while at > 0 {
            let above = (at - 1) / 4;
            if !Self::before(entry, self.entries[above]) {
                break;
            }
            self.entries[at] = self.entries[above];
            self.place[self.entries[at].1 as usize] = at as u32;
            at = above;
        }
        self.entries[at] = entry;
        self.place[entry.1 as usize] = at as u32;
    }

    fn down(&mut self, mut at: usize) {
        let entry = self.entries[at];
        loop {
            let child = at * 4 + 1;
            if child >= self.entries.len() {
                break;
            }
            let mut least = child;
            for other in child + 1..(child + 4).min(self.entries.len()) {
                if Self::before(self.entries[other], self.entries[least]) {
                    least = other;
                }
            }
            if !Self::before(self.entries[least], entry) {
                break;
            }
            self.entries[at] = self.entries[least];
            self.place[self.entries[at].1 as usize] = at as u32;
            at = least;
        }
        self.entries[at] = entry;
        self.place[entry.1 as usize] = at as u32;
    }
}
