//! A second repository: where `copy` reads, and whose parameters `init` takes.

use std::path::PathBuf;

use clap::Args;
use stash_repo::backend::connect;
use stash_repo::write::Access;
use zeroize::Zeroizing;

use super::{CliError, CliResult, Context, global, password};

/// restic's options of the source.
#[derive(Debug, Clone, Args)]
pub(super) struct FromRepo {
    /// The source repository
    #[arg(long, env = "RESTIC_FROM_REPOSITORY", hide_env_values = true, value_name = "REPOSITORY")]
    from_repo: Option<String>,
    /// Read the source's address from a file
    #[arg(long, env = "RESTIC_FROM_REPOSITORY_FILE", hide_env_values = true, value_name = "FILE")]
    from_repository_file: Option<PathBuf>,
    /// Read the source's password from a file (RESTIC_FROM_PASSWORD holds the password itself)
    #[arg(long, env = "RESTIC_FROM_PASSWORD_FILE", hide_env_values = true, value_name = "FILE")]
    from_password_file: Option<PathBuf>,
    /// Take the source's password from the output of a command
    #[arg(long, env = "RESTIC_FROM_PASSWORD_COMMAND", hide_env_values = true, value_name = "COMMAND")]
    from_password_command: Option<String>,
    /// The source has the empty password
    #[arg(long)]
    from_insecure_no_password: bool,
    /// Try this key of the source first
    #[arg(long, env = "RESTIC_FROM_KEY_HINT", hide_env_values = true, value_name = "ID")]
    from_key_hint: Option<String>,
}

impl FromRepo {
    /// Returns whether a source is named.
    pub(super) fn is_given(&self) -> bool {
        self.from_repo.as_ref().is_some_and(|address| !address.is_empty()) || self.from_repository_file.is_some()
    }

    /// Opens the source.
    ///
    /// # Errors
    /// It is not named, or cannot be opened.
    pub(super) async fn access(&self, context: &Context) -> CliResult<Access> {
        let address = match (self.from_repo.as_ref().filter(|address| !address.is_empty()), &self.from_repository_file)
        {
            (Some(address), None) => address.clone(),
            (None, Some(path)) => std::fs::read_to_string(path)
                .map_err(|error| CliError::failure(format!("read repository file {}: {error}", path.display())))?
                .trim()
                .to_owned(),
            (Some(_), Some(_)) => {
                return Err(CliError::usage("--from-repo and --from-repository-file exclude each other"));
            }
            (None, None) => {
                return Err(CliError::usage("no source was named").hint("give one with --from-repo"));
            }
        };
        let backend = connect::connect(&global::location(&address)?, &context.connect_options()).await?;
        let password = self.password()?;
        Access::open(backend, &password, self.from_key_hint.as_deref())
            .await
            .map_err(|error| CliError::from(error).context("the source"))
    }

    fn password(&self) -> CliResult<Zeroizing<String>> {
        password::choose(
            &password::Sources {
                file: self.from_password_file.as_deref(),
                command: self.from_password_command.as_deref(),
                variable: "RESTIC_FROM_PASSWORD",
                none: self.from_insecure_no_password,
            },
            "enter password for source repository: ",
        )
    }
}
