//! Backends against real servers: all must behave alike, fail in time and in the right words, and ask for no more
//! rights than they need.

mod clouds;
mod conformance;
mod faults;
mod harness;
mod http;
mod tls;
