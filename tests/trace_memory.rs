//! An import holds no more than about twice what it retains, and never the file.

#![allow(clippy::unwrap_used, clippy::print_stderr, unsafe_code)]

use std::io::Read;
use std::sync::atomic::Ordering;

use heap::{MOST, NOW};
use trainyard::trace::import::kineto;

#[path = "support/heap.rs"]
mod heap;

/// A trace that is written while it is read, so that the text itself takes no memory.
struct Endless {
    events: usize,
    next: usize,
    line: Vec<u8>,
    at: usize,
    text_bytes: usize,
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.at == self.line.len() {
            self.line.clear();
            self.at = 0;
            let (n, ts) = (self.next, 1000 + 10 * self.next);
            let text = match n {
                0 => "{\"traceEvents\": [{}".to_owned(),
                n if n > self.events => return Ok(0),
                n if n == self.events => "]}".to_owned(),
                n if n % 3 == 0 => format!(
                    ",{{\"ph\":\"X\",\"cat\":\"cuda_runtime\",\"name\":\"cudaLaunchKernel\",\"pid\":1,\"tid\":1,\"ts\":{ts},\"dur\":5,\"args\":{{\"correlation\":{n}}}}}"
                ),
                n if n % 3 == 1 => format!(
                    ",{{\"ph\":\"X\",\"cat\":\"kernel\",\"name\":\"kernel_{}\",\"pid\":0,\"tid\":7,\"ts\":{ts},\"dur\":8,\"args\":{{\"stream\":7,\"correlation\":{},\"grid\":[64,1,1],\"block\":[128,1,1]}}}}",
                    n % 500,
                    n - 1
                ),
                n => format!(
                    ",{{\"ph\":\"X\",\"cat\":\"python_function\",\"name\":\"train.py({n}): step\",\"pid\":1,\"tid\":1,\"ts\":{ts},\"dur\":8,\"args\":{{\"Python id\":{n},\"x\":\"{}\"}}}}",
                    "y".repeat(300)
                ),
            };
            self.line.extend_from_slice(text.as_bytes());
            self.text_bytes += text.len();
            self.next += 1;
        }
        let count = buffer.len().min(self.line.len() - self.at);
        buffer[..count].copy_from_slice(&self.line[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

#[test]
fn an_import_holds_twice_what_it_retains_at_most() {
    for events in [30_000, 250_000, 600_000] {
        let mut source = Endless { events, next: 0, line: Vec::new(), at: 0, text_bytes: 0 };
        let before = NOW.load(Ordering::Relaxed);
        MOST.store(before, Ordering::Relaxed);
        let rank = kineto::read(&mut source, "rank-0.json").unwrap();
        let most = MOST.load(Ordering::Relaxed) - before;
        let retained = rank.heap_bytes();
        eprintln!(
            "{events} events: {:.1} MB of text, {:.2} MB retained, {:.2} MB at most ({:.2} times)",
            source.text_bytes as f64 / 1e6,
            retained as f64 / 1e6,
            most as f64 / 1e6,
            most as f64 / retained as f64
        );
        // The window over the source, and small tables, come on top.
        assert!(most <= 2 * retained + (600 << 10), "{most} for {retained}");
    }
}
