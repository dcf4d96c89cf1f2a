//! The adapter between fuser and `stash-vfs`. This folder is the only place that knows fuser.
