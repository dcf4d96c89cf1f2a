//! Readers that go through directories.
