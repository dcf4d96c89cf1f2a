//! restic's locks.
