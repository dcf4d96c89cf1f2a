//! What to do with an entry, by what stands at its place already. Pure.

use stash_repo::{NodeKind, Timestamp};

use super::Overwrite;

/// What stands at an entry's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Existing {
    /// Nothing.
    Nothing,
    /// A directory.
    Dir,
    /// A regular file.
    File {
        /// Its size.
        size: u64,
        /// Its last change.
        mtime: Timestamp,
    },
    /// Anything else.
    Other {
        /// Its last change.
        mtime: Timestamp,
    },
}

/// What to do with a regular file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// Write it; nothing is there.
    Create,
    /// Write it and put it in the place of what is there.
    Replace,
    /// Compare contents; only metadata if they are the same, else as `Replace`.
    Compare,
    /// Contents are the same by size and time: only metadata.
    Same,
    /// Leave all as it is.
    Keep,
    /// A directory stands there: nothing is removed that was not asked for.
    InTheWay,
}

/// What is wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    /// Which kind.
    pub(super) kind: NodeKind,
    /// The size of its content.
    pub(super) size: u64,
    /// Its last change.
    pub(super) mtime: Timestamp,
    /// What becomes of what is there.
    pub(super) overwrite: Overwrite,
    /// Look at contents even where size and time are the same.
    pub(super) verify: bool,
    /// What is in the way may be removed.
    pub(super) delete: bool,
}

/// Decides about an entry that is no directory. `Compare` and `Same` are for regular files alone: other kinds have so
/// little content that the planner compares them itself.
pub(super) fn decide(existing: Existing, wanted: &Wanted) -> Decision {
    let mtime = match existing {
        Existing::Nothing => return Decision::Create,
        Existing::Dir if wanted.delete && wanted.overwrite != Overwrite::Never => return Decision::Replace,
        Existing::Dir if wanted.overwrite == Overwrite::Never => return Decision::Keep,
        Existing::Dir => return Decision::InTheWay,
        Existing::File { mtime, .. } | Existing::Other { mtime } => mtime,
    };
    match wanted.overwrite {
        Overwrite::Never => return Decision::Keep,
        Overwrite::IfNewer if wanted.mtime <= mtime => return Decision::Keep,
        _ => {}
    }
    match existing {
        Existing::File { size, mtime } if wanted.kind == NodeKind::File && size == wanted.size => {
            if wanted.overwrite == Overwrite::IfChanged && mtime == wanted.mtime && !wanted.verify {
                Decision::Same
            } else {
                Decision::Compare
            }
        }
        _ => Decision::Replace,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_decide() {
        use Decision as D;
        use Existing as E;
        use Overwrite::{Always, IfChanged, IfNewer, Never};
        let time = |secs| Timestamp { secs, nanos: 5 };
        let file = |size, secs| E::File { size, mtime: time(secs) };
        let other = E::Other { mtime: time(1) };
        // (what is there, policy, verify, delete, decision); wanted: a file of 10 bytes of second 100
        let table = [
            (E::Nothing, Never, false, false, D::Create),
            (E::Nothing, Always, true, true, D::Create),
            (E::Dir, Always, false, false, D::InTheWay),
            (E::Dir, Always, false, true, D::Replace),
            (E::Dir, Never, false, true, D::Keep),
            (file(10, 100), Always, false, false, D::Compare),
            (file(10, 100), IfChanged, false, false, D::Same),
            (file(10, 100), IfChanged, true, false, D::Compare),
            (file(10, 100), IfNewer, false, false, D::Keep),
            (file(10, 100), Never, false, false, D::Keep),
            (file(10, 99), IfChanged, false, false, D::Compare),
            (file(10, 99), IfNewer, false, false, D::Compare),
            (file(10, 101), IfNewer, false, false, D::Keep),
            (file(11, 100), Always, false, false, D::Replace),
            (file(11, 100), IfChanged, false, false, D::Replace),
            (file(11, 101), IfNewer, false, false, D::Keep),
            (other, Always, false, false, D::Replace),
            (other, Never, false, false, D::Keep),
        ];
        for (existing, overwrite, verify, delete, want) in table {
            let wanted = Wanted { kind: NodeKind::File, size: 10, mtime: time(100), overwrite, verify, delete };
            assert_eq!(decide(existing, &wanted), want, "{existing:?} {overwrite:?} {verify} {delete}");
        }
    }
}
