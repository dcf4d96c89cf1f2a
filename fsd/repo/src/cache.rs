//! The disk cache of ciphertext blobs.
