//! `init`: make a repository.

use clap::Args as ClapArgs;
use serde_json::json;
use stash_repo::write::init::{InitOptions, init};

use super::from_repo::FromRepo;
use super::{CliError, CliResult, Context, Exit};

/// The arguments of `init`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The format: 1, 2, `stable` or `latest`
    #[arg(long, value_name = "VERSION", default_value = "stable", value_parser = parse_version)]
    repository_version: u32,
    /// Cut files as the repository given by --from-repo does, so that `copy` between them finds equal pieces
    #[arg(long)]
    copy_chunker_params: bool,
    #[command(flatten)]
    from: FromRepo,
}

fn parse_version(text: &str) -> Result<u32, String> {
    match text {
        "stable" | "latest" | "2" => Ok(2),
        "1" => Ok(1),
        _ => Err(format!("`{text}` is none of 1, 2, stable, latest")),
    }
}

/// Runs the verb.
pub(super) async fn run(args: Args, context: &Context) -> CliResult<Exit> {
    let chunker_polynomial = match (args.copy_chunker_params, args.from.is_given()) {
        (true, true) => Some(args.from.access(context).await?.config().chunker_polynomial.clone()),
        (true, false) => return Err(CliError::usage("--copy-chunker-params needs --from-repo")),
        (false, true) => return Err(CliError::usage("--from-repo is of use with --copy-chunker-params only")),
        (false, false) => None,
    };
    let backend = context.backend().await?;
    let location = backend.location().to_owned();
    let password = context.new_password("enter password for new repository: ")?;
    let options = InitOptions { version: args.repository_version, chunker_polynomial };
    let access = init(backend, &password, &options).await?;
    let mut out = context.out();
    let id = access.config().id;
    if out.json {
        out.json_line(&json!({"message_type": "initialized", "id": id, "repository": location}))?;
    } else {
        out.say(format_args!("created repository {} at {location}", id.short()))?;
        out.say("Please note that the password is needed to read the repository: without it, all is lost.")?;
    }
    out.finish()?;
    Ok(Exit::Success)
}
