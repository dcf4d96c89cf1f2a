//! Backup, forget, prune, copy and check by `rustic_core`, under our locks and our commit gate.
