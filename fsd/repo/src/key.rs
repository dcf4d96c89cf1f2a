//! Key files: from a password to the master key.
