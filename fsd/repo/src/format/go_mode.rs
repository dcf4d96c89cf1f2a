//! Go's `os.FileMode`, which restic stores and prints.
//!
//! Source: Go, `io/fs/fs.go`, `FileMode`.

use super::tree::NodeKind;

const DIR: u32 = 1 << 31;
const SYMLINK: u32 = 1 << 27;
const DEVICE: u32 = 1 << 26;
const FIFO: u32 = 1 << 25;
const SOCKET: u32 = 1 << 24;
const CHAR_DEVICE: u32 = 1 << 21;

/// Setuid, setgid and sticky: Unix's bit and Go's.
const SPECIAL: [(u32, u32); 3] = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];

/// Returns Go's mode of a kind with Unix's permissions, setuid, setgid and sticky; other bits of `mode` are not looked at.
#[must_use]
pub fn from_unix(kind: NodeKind, mode: u32) -> u32 {
    let kind = match kind {
        NodeKind::File => 0,
        NodeKind::Dir => DIR,
        NodeKind::Symlink => SYMLINK,
        NodeKind::BlockDevice => DEVICE,
        NodeKind::CharDevice => DEVICE | CHAR_DEVICE,
        NodeKind::Fifo => FIFO,
        NodeKind::Socket => SOCKET,
    };
    SPECIAL.iter().fold(kind | (mode & 0o777), |go, &(unix, flag)| if mode & unix == 0 { go } else { go | flag })
}

/// Returns Unix's permissions with setuid, setgid and sticky. Go's bits of kind are not used: a node's `type` says it.
#[must_use]
pub fn to_unix(go: u32) -> u32 {
    SPECIAL.iter().fold(go & 0o777, |mode, &(unix, flag)| if go & flag == 0 { mode } else { mode | unix })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_modes_are_gos() {
        for (kind, mode, go) in [
            (NodeKind::File, 0o100_644, 0o644),
            (NodeKind::File, 0o4755, 1 << 23 | 0o755),
            (NodeKind::Dir, 0o41_777, 1 << 31 | 1 << 20 | 0o777),
            (NodeKind::Dir, 0o2750, 1 << 31 | 1 << 22 | 0o750),
            (NodeKind::Symlink, 0o777, 1 << 27 | 0o777),
            (NodeKind::BlockDevice, 0o660, 1 << 26 | 0o660),
            (NodeKind::CharDevice, 0o600, 1 << 26 | 1 << 21 | 0o600),
            (NodeKind::Fifo, 0, 1 << 25),
            (NodeKind::Socket, 0o755, 1 << 24 | 0o755),
        ] {
            assert_eq!(from_unix(kind, mode), go, "{kind:?} {mode:o}");
            assert_eq!(to_unix(go), mode & 0o7777, "{go:o}");
        }
    }
}
