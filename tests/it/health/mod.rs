//! Which endpoints take calls, and which do not.

mod drain;
