//! Buffers that a worker keeps for whoever needs one next, so that a
//! connection that waits holds none.

use std::cell::RefCell;

/// A worker's spare buffers of one use; it lives in a thread-local.
pub struct Spare {
    buffers: RefCell<Vec<Vec<u8>>>,
    most: usize,
    capacity: usize,
}

impl Spare {
    /// Keeps at most `most` buffers, of `capacity` bytes when they are new.
    pub const fn new(most: usize, capacity: usize) -> Self {
        Self { buffers: RefCell::new(Vec::new()), most, capacity }
    }

    /// An empty buffer.
    pub fn take(&self) -> Vec<u8> {
        self.buffers.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(self.capacity))
    }

    /// Keeps a buffer, unless there are enough or it has grown far beyond its use.
    pub fn give(&self, mut buffer: Vec<u8>) {
        let mut buffers = self.buffers.borrow_mut();
        if buffers.len() < self.most && (1..=4 * self.capacity).contains(&buffer.capacity()) {
            buffer.clear();
            buffers.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_empty_buffers_of_the_usual_size_are_kept() {
        let spare = Spare::new(1, 16);
        let mut buffer = spare.take();
        buffer.extend_from_slice(b"something");
        let place = buffer.as_ptr();
        spare.give(buffer);
        spare.give(Vec::with_capacity(16));
        assert_eq!(spare.buffers.borrow().len(), 1, "no more than it may keep");
        let again = spare.take();
        assert_eq!((again.as_ptr(), again.len()), (place, 0));
        spare.give(Vec::with_capacity(65));
        spare.give(Vec::new());
        assert!(spare.buffers.borrow().is_empty(), "neither what has grown nor what is nothing");
    }
}
