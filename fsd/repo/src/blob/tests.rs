//! The engine over a fake store that counts, refuses what the contract does not allow, and fails as it is told.

mod budget;
mod fake;
mod flights;
mod healing;
mod limits;
mod reading;
mod remote;
mod staged;
