//! How a table of restic's flags is written, whatever the flags set.

/// A flag that sets something of `F`.
#[derive(Debug)]
pub(super) struct Flag<F: 'static> {
    pub(super) name: &'static str,
    pub(super) short: Option<char>,
    pub(super) kind: Kind,
    pub(super) rule: Rule<F>,
}

/// Which value a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A truth value, only behind `=`.
    Switch,
    /// A number, only behind `=`; each time once more.
    Count,
    /// Always one.
    Value,
}

type Set<F> = fn(&mut F, &str) -> Result<(), String>;

/// What becomes of a flag.
#[derive(Debug)]
pub(super) enum Rule<F: 'static> {
    /// It sets something.
    Mapped(Set<F>),
    /// What it asks for is so anyway, or changes only what restic prints.
    WithoutEffect,
    /// It is refused.
    Refused(&'static str),
}

/// Why a flag that asks for the password is refused.
pub(super) const IN_THE_SECRET: &str = "the password is RESTIC_PASSWORD in the Repository's Secret";
/// Why a flag that names a repository is refused.
pub(super) const IN_THE_REPOSITORY: &str = "the repository is what spec.repository names";

/// A row of a table.
pub(super) const fn flag<F>(name: &'static str, kind: Kind, rule: Rule<F>) -> Flag<F> {
    Flag { name, short: None, kind, rule }
}

/// A row of a flag that has a letter too.
pub(super) const fn with_short<F>(short: char, name: &'static str, kind: Kind, rule: Rule<F>) -> Flag<F> {
    Flag { name, short: Some(short), kind, rule }
}

/// The verb of restic that flags are of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Verb<F: 'static> {
    /// Its name.
    pub(super) name: &'static str,
    /// Where what is no flag belongs.
    pub(super) place: &'static str,
    /// All its flags.
    pub(super) flags: &'static [Flag<F>],
}

impl<F: 'static> Verb<F> {
    /// Finds a flag by its name.
    pub(super) fn long(&self, name: &str) -> Option<&'static Flag<F>> {
        self.flags.iter().find(|flag| flag.name == name)
    }

    /// Finds a flag by its letter.
    pub(super) fn short(&self, letter: char) -> Option<&'static Flag<F>> {
        self.flags.iter().find(|flag| flag.short == Some(letter))
    }
}
