//! `access`: one repository directory over the network, read-only; see [`crate::access`].

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::units::parse_duration;
use super::{CliError, CliResult, Exit, interrupt};
use crate::access::{Directory, Ended, Options, TlsFiles, config, listen, serve};

/// The arguments of `access`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "It speaks restic's REST protocol (version 2), for restic as for stash-fs: `-r rest:https://HOST:8443/ --cacert CA \
                  --tls-client-cert CERT-AND-KEY`. It knows no password, and refuses whatever would change a file. \
                  SIGTERM ends it when the requests under way are answered, after 5 s at the latest."
)]
pub struct Args {
    /// The directory that holds the repository
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// The server's certificate: a PEM file
    #[arg(long, value_name = "FILE")]
    tls_cert: PathBuf,
    /// Its key: a PEM file
    #[arg(long, value_name = "FILE")]
    tls_key: PathBuf,
    /// Answer clients that show a certificate of these authorities, and nobody else: a PEM file
    #[arg(long, value_name = "FILE")]
    client_ca: PathBuf,
    /// Where to listen
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:8443")]
    listen: SocketAddr,
    /// The most connections at a time; more wait
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    max_connections: u16,
    /// End when nobody has asked for anything for so long
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    max_idle: Option<Duration>,
}

/// Runs the verb.
pub(super) async fn run(args: Args) -> CliResult<Exit> {
    let directory = Directory::open(&args.directory)
        .map_err(|error| CliError::failure(format!("cannot open {}: {error}", args.directory.display())))?;
    let files = TlsFiles { certificate: args.tls_cert, key: args.tls_key, clients: args.client_ca };
    let tls = config(&files).map_err(|error| CliError::failure(error.to_string()))?;
    let listener = listen(args.listen)
        .await
        .map_err(|error| CliError::failure(format!("cannot listen at {}: {error}", args.listen)))?;
    let options = Options { max_connections: args.max_connections.into(), max_idle: args.max_idle };
    tracing::info!(directory = %args.directory.display(), listen = %args.listen, "serving read-only");
    let mut asked = Ok(());
    let ended = serve(listener, tls, directory, options, async { asked = interrupt::signal().await }).await;
    asked.map_err(|error| CliError::failure(format!("wait for signals: {error}")))?;
    if ended == Ended::Idle {
        tracing::info!("nobody asked for anything any more");
    }
    Ok(Exit::Success)
}
