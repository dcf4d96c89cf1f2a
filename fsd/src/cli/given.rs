//! A repository that the caller knows, for programs that link these verbs: nothing of it is in arguments, variables or files.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;

use stash_repo::backend::connect::{ConnectOptions, Refused};
use stash_repo::backend::location::Location;
use zeroize::Zeroizing;

use super::{CliError, CliResult, Context, Exit};

/// Where a repository is and what opens it. In memory only, never printed.
#[derive(Clone, Default)]
pub struct Access {
    /// The address in restic's syntax, without a secret in it.
    pub address: String,
    /// The password.
    pub password: Zeroizing<String>,
    /// Settings and credentials of the store, by restic's variables. No others are used.
    pub environment: BTreeMap<String, Zeroizing<String>>,
    /// restic's options (`-o`).
    pub options: BTreeMap<String, String>,
    /// PEM of the certificates that are trusted instead of the machine's.
    pub ca_certificates: Option<String>,
    /// Whether the server's certificate is taken unseen.
    pub insecure_tls: bool,
    /// Which addresses must not be reached; none if not given.
    pub refused: Option<Refused>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Access {
    /// Returns the address.
    ///
    /// # Errors
    /// It is none, or one that starts a program or names a directory of this machine.
    pub(super) fn location(&self) -> CliResult<Location> {
        let location =
            Location::parse_in_cluster(&self.address).map_err(|error| CliError::failure(error.to_string()))?;
        match location {
            Location::Local { .. } => Err(CliError::failure("a directory of another machine cannot be opened here")),
            location => Ok(location),
        }
    }

    /// Puts in what these say of the connection; nothing of the process's environment stays.
    pub(super) fn connect_options(&self, options: ConnectOptions) -> ConnectOptions {
        let text = |(name, value): (&String, &Zeroizing<String>)| (name.clone(), value.as_str().to_owned());
        ConnectOptions {
            environment: self.environment.iter().map(text).collect(),
            ambient: false,
            extended: self.options.clone(),
            ca_certificates: self.ca_certificates.clone(),
            insecure_tls: self.insecure_tls,
            refused: self.refused.clone(),
            ..options
        }
    }
}

/// Runs a verb that reads a repository, as `stash-fs ls --long ID:PATH`, where the caller knows what opens it. No variable of the
/// environment is taken for an option.
///
/// # Errors
/// As the verb's: the caller tells them.
pub fn run_on(arguments: Vec<OsString>, access: Access) -> CliResult<Exit> {
    let cli = super::parse(arguments, false).map_err(|error| CliError::usage(error.to_string()))?;
    let context = Context { given: Some(access), ..Context::new(cli.global, false)? };
    super::run(cli.command, context)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(address: &str) -> Access {
        Access {
            address: address.to_owned(),
            password: Zeroizing::new("geheim".to_owned()),
            environment: [("AWS_SECRET_ACCESS_KEY".to_owned(), Zeroizing::new("geheim".to_owned()))].into(),
            ..Access::default()
        }
    }

    #[test]
    fn test_only_stores_that_a_cluster_reaches_are_opened() {
        assert!(access("s3:https://host/bucket").location().is_ok());
        for (address, words) in [
            ("/srv/backups", "a directory of another machine"),
            ("rclone:x:y", "starts no programs"),
            ("rest:https://me:geheim@host/", "credentials belong into the Secret"),
        ] {
            let error = access(address).location().unwrap_err().message;
            assert!(error.contains(words) && !error.contains("geheim"), "{error}");
        }
    }

    #[test]
    fn test_credentials_are_those_given_and_are_not_printed() {
        let access = access("s3:host/b");
        let options = access.connect_options(ConnectOptions::from_process());
        assert_eq!(options.environment.keys().collect::<Vec<_>>(), ["AWS_SECRET_ACCESS_KEY"]);
        assert!(!options.ambient);
        assert_eq!(format!("{access:?}"), "Access { address: \"s3:host/b\", .. }");
    }
}
