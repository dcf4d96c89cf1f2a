//! The definitions and types against the corpora of `testdata`. What a real API server says to them is tested by `tests/suites`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod corpus;
mod definitions;
mod odd;
mod schema;
