//! The repository's `config` file.
