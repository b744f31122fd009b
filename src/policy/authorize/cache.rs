//! Tokens that were checked before, so that not every call checks a signature.
//!
//! Must hold: at most so many are kept; none outlives its times or the keys by
//! which it was checked.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use aws_lc_rs::digest;

use super::Believed;
use super::token::{self, Fault, Verified};

/// Tokens that a worker keeps.
const MOST: usize = 1024;
/// Bytes of the tokens that are kept.
const BYTES: usize = 2 << 20;

type Digest = [u8; 32];

/// Tokens that were found good, by their digest.
#[derive(Default)]
pub struct Tokens(RefCell<Held>);

#[derive(Default)]
struct Held {
    all: HashMap<Digest, (Rc<Verified>, usize)>,
    /// The oldest first.
    order: VecDeque<Digest>,
    bytes: usize,
}

impl Tokens {
    /// Checks a token, by what is known of it where it came before.
    pub(super) fn check(&self, token: &[u8], believed: &Believed<'_>) -> Result<Rc<Verified>, Fault> {
        if token.len() > token::LARGEST {
            return Err(Fault::Malformed);
        }
        let mut key = Digest::default();
        key.copy_from_slice(digest::digest(&digest::SHA256, token).as_ref());
        if let Some(known) = self.known(&key, believed) {
            known.holds(believed.now)?;
            return Ok(known);
        }
        let verified = Rc::new(token::verify(token, believed)?);
        verified.holds(believed.now)?;
        self.keep(key, &verified, token.len());
        Ok(verified)
    }

    fn known(&self, key: &Digest, believed: &Believed<'_>) -> Option<Rc<Verified>> {
        let held = self.0.borrow();
        let (known, _) = held.all.get(key)?;
        let keys = (believed.keys)(known.issuer)?;
        Arc::ptr_eq(&keys, &known.keys).then(|| known.clone())
    }

    fn keep(&self, key: Digest, verified: &Rc<Verified>, bytes: usize) {
        let mut held = self.0.borrow_mut();
        if let Some((_, before)) = held.all.insert(key, (verified.clone(), bytes)) {
            // It stands in the order already.
            held.bytes = held.bytes - before + bytes;
            return;
        }
        held.bytes += bytes;
        held.order.push_back(key);
        while held.order.len() > MOST || held.bytes > BYTES {
            let Some(oldest) = held.order.pop_front() else { return };
            let gone = held.all.remove(&oldest).map_or(0, |(_, bytes)| bytes);
            held.bytes -= gone;
        }
    }

    /// How many are kept.
    pub fn count(&self) -> usize {
        self.0.borrow().all.len()
    }
}
