//! `key`: the passwords of a repository.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};
use serde_json::json;
use stash_repo::lock::hostname;
use stash_repo::write::{Access, key};
use zeroize::Zeroizing;

use super::output::{Table, show_name};
use super::writing::Lock;
use super::{CliResult, Context, Exit, password};

/// The arguments of `key`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the keys
    List,
    /// Add a password
    Add(New),
    /// Remove a key, which must not be the one in use
    Remove {
        /// The key's id, or its beginning
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Replace the password in use by another
    Passwd(New),
}

/// Where the new password comes from, and what its key says.
#[derive(Debug, ClapArgs)]
struct New {
    /// Read the new password from a file (STASH_FS_NEW_PASSWORD holds the password itself)
    #[arg(long, value_name = "FILE")]
    new_password_file: Option<PathBuf>,
    /// The new password is empty
    #[arg(long)]
    new_insecure_no_password: bool,
    /// The user that the key names
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// The host that the key names
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
}

impl New {
    fn password(&self) -> CliResult<Zeroizing<String>> {
        let sources = password::Sources {
            file: self.new_password_file.as_deref(),
            command: None,
            variable: "STASH_FS_NEW_PASSWORD",
            none: self.new_insecure_no_password,
        };
        password::choose_new(&sources, "enter new password: ")
    }
}

/// Runs the verb.
pub(super) async fn run(args: Args, context: &Context) -> CliResult<Exit> {
    let access = context.access().await?;
    let mut out = context.out();
    match args.action {
        Action::List => list(&access, context).await?,
        Action::Add(new) => {
            let password = new.password()?;
            let user = new.user.unwrap_or_else(stash_repo::write::current_user);
            let host = new.host.unwrap_or_else(hostname);
            let held = context.lock(&access, Lock::Shared).await?;
            let result = key::add(&access, held.lease(), &password, &user, &host).await.map_err(Into::into);
            let id = context.unlock(held, result).await?;
            if out.json {
                out.json_line(&json!({"message_type": "key_added", "id": id}))?;
            } else {
                out.say(format_args!("saved new key as {id}"))?;
            }
        }
        Action::Remove { id } => {
            let held = context.lock(&access, Lock::Exclusive).await?;
            let result = key::remove(&access, held.lease(), &id).await.map_err(Into::into);
            let id = context.unlock(held, result).await?;
            if out.json {
                out.json_line(&json!({"message_type": "key_removed", "id": id}))?;
            } else {
                out.say(format_args!("removed key {id}"))?;
            }
        }
        Action::Passwd(new) => {
            let password = new.password()?;
            let held = context.lock(&access, Lock::Exclusive).await?;
            let result = key::change_password(&access, held.lease(), &password).await.map_err(Into::into);
            let id = context.unlock(held, result).await?;
            if out.json {
                out.json_line(&json!({"message_type": "key_added", "id": id}))?;
            } else {
                out.say(format_args!("saved new key as {id}"))?;
            }
        }
    }
    out.finish()?;
    Ok(Exit::Success)
}

async fn list(access: &Access, context: &Context) -> CliResult<()> {
    let keys = key::list(access).await?;
    let mut out = context.out();
    if out.json {
        // restic's array (restic, `doc/075_scripting.rst`, "key list").
        let keys = keys.iter().map(|key| match &key.content {
            Ok(file) => json!({
                "current": key.id == access.key_id(), "id": key.id.0.short(), "userName": file.username,
                "hostName": file.hostname, "created": file.created,
            }),
            Err(error) => json!({"current": false, "id": key.id.0.short(), "error": error.to_string()}),
        });
        out.json_line(&keys.collect::<Vec<_>>())?;
    } else {
        let mut table = Table::new(&[" ID", "User", "Host", "Created"]);
        for key in &keys {
            let mark = if key.id == access.key_id() { '*' } else { ' ' };
            let id = format!("{mark}{}", key.id.0.short());
            table.row(match &key.content {
                Ok(file) => {
                    let [user, host, created] =
                        [&file.username, &file.hostname, &file.created].map(|text| show_name(text.as_bytes()));
                    vec![id, user, host, created]
                }
                Err(error) => vec![id, error.to_string()],
            });
        }
        table.print(&mut out)?;
    }
    out.finish()
}
