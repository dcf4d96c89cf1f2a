//! restic's authenticated encryption: AES-256 in counter mode under Poly1305-AES.
