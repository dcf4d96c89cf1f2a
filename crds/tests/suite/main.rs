//! The definitions and types against the corpora of `testdata`. What a real API server says to them is tested by `tests/suites`.

mod corpus;
mod definitions;
mod odd;
mod server;
