//! Bytes on the heap of a test binary, counted by its allocator. Used as
//! `#[path = "support/heap.rs"] mod heap;` where a test is the only one of its binary.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts bytes on the heap and remembers the most.
struct Counting;

/// On the heap now.
pub static NOW: AtomicUsize = AtomicUsize::new(0);
/// Most there ever was.
pub static MOST: AtomicUsize = AtomicUsize::new(0);

fn grow(bytes: usize) {
    let now = NOW.fetch_add(bytes, Ordering::Relaxed) + bytes;
    MOST.fetch_max(now, Ordering::Relaxed);
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Large blocks are remapped and not copied.
        if size > layout.size() {
            grow(size - layout.size());
        } else {
            NOW.fetch_sub(layout.size() - size, Ordering::Relaxed);
        }
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;
