//! The options that every verb has, and what they open.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clap::{Args, ValueEnum};
use stash_repo::backend::connect::{self, ConnectOptions};
use stash_repo::backend::location::Location;
use stash_repo::budget::cgroup;
use stash_repo::{Backend, Metrics, Repository, RepositoryOptions};
use zeroize::Zeroizing;

use super::given::Access;
use super::interrupt::{self, Interrupt};
use super::output::Out;
use super::units::{parse_bytes, parse_duration};
use super::{CliError, CliResult, Exit, password};
use crate::telemetry::{self, LogOptions};

/// Threads of the I/O runtime: it only moves bytes; decoding has threads of its own.
const IO_THREADS: usize = 2;

/// Options of every verb, restic's names and environment variables.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options of every verb")]
pub struct GlobalArgs {
    /// The repository, in restic's syntax; `mount` takes several
    #[arg(short, long, env = "RESTIC_REPOSITORY", hide_env_values = true, global = true, value_name = "REPOSITORY")]
    pub repo: Vec<String>,
    /// Read the repository's address from a file
    #[arg(long, env = "RESTIC_REPOSITORY_FILE", hide_env_values = true, global = true, value_name = "FILE")]
    pub repository_file: Option<PathBuf>,
    /// Read the password from a file (RESTIC_PASSWORD holds the password itself)
    #[arg(short, long, env = "RESTIC_PASSWORD_FILE", hide_env_values = true, global = true, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Take the password from the output of a command, which runs without the variables that hold secrets
    #[arg(long, env = "RESTIC_PASSWORD_COMMAND", hide_env_values = true, global = true, value_name = "COMMAND")]
    pub password_command: Option<String>,
    /// The repository has the empty password
    #[arg(long, global = true)]
    pub insecure_no_password: bool,
    /// Try this key first
    #[arg(long, env = "RESTIC_KEY_HINT", hide_env_values = true, global = true, value_name = "ID")]
    pub key_hint: Option<String>,
    /// Keep nothing on the local disk
    #[arg(long, global = true)]
    pub no_cache: bool,
    /// The folder of the caches (default: stash-fs below RESTIC_CACHE_DIR, XDG_CACHE_HOME or ~/.cache)
    #[arg(long, env = "STASH_FS_CACHE_DIR", hide_env_values = true, global = true, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// The most that the cache of file data takes on disk
    #[arg(long, global = true, value_name = "SIZE", default_value = "4G", value_parser = parse_bytes)]
    pub cache_size: u64,
    /// Memory for data in flight, decoded or fetched ahead
    #[arg(long, global = true, value_name = "SIZE", default_value = "64M", value_parser = parse_memory)]
    pub memory: usize,
    /// No request to the store takes longer
    #[arg(long, global = true, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    pub deadline: Duration,
    /// Trust these certificates instead of the system's (PEM)
    #[arg(
        long,
        env = "RESTIC_CACERT",
        hide_env_values = true,
        global = true,
        value_name = "FILE",
        value_delimiter = ','
    )]
    pub cacert: Vec<PathBuf>,
    /// Show this certificate to the store (PEM with certificate and key)
    #[arg(long, env = "RESTIC_TLS_CLIENT_CERT", hide_env_values = true, global = true, value_name = "FILE")]
    pub tls_client_cert: Option<PathBuf>,
    /// Do not verify the store's certificate (insecure)
    #[arg(long, global = true)]
    pub insecure_tls: bool,
    /// Read from the store at most this many KiB a second
    #[arg(long, global = true, value_name = "RATE")]
    pub limit_download: Option<u64>,
    /// Write to the store at most this many KiB a second
    #[arg(long, global = true, value_name = "RATE")]
    pub limit_upload: Option<u64>,
    /// An option of the store, as restic takes it
    #[arg(short, long = "option", global = true, value_name = "KEY=VALUE", value_parser = parse_option)]
    pub option: Vec<(String, String)>,
    /// Print JSON instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// Say more; twice for debugging (or --verbose=N)
    #[arg(
        short, long, global = true, value_name = "N", num_args = 0..=1, require_equals = true,
        default_missing_value = "1", action = clap::ArgAction::Append,
    )]
    pub verbose: Vec<u8>,
    /// Say only errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Write the log as one JSON object a line
    #[arg(long, global = true)]
    pub log_json: bool,
    /// Write no lock (reading never does)
    #[arg(long, global = true)]
    pub no_lock: bool,
    /// Wait this long for another process's lock
    #[arg(long, global = true, value_name = "DURATION", default_value = "0s", value_parser = parse_duration)]
    pub retry_lock: Duration,
    /// Remove caches that were not used for long
    #[arg(long, global = true)]
    pub cleanup_cache: bool,
    /// How new data is compressed
    #[arg(long, env = "RESTIC_COMPRESSION", hide_env_values = true, global = true, value_enum, default_value = "auto")]
    pub compression: Compression,
    /// The size of new pack files in MiB
    #[arg(long, env = "RESTIC_PACK_SIZE", hide_env_values = true, global = true, value_name = "MIB")]
    pub pack_size: Option<u32>,
}

/// restic's `--compression`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Compression {
    /// Where the format can, at zstd's default level.
    #[default]
    Auto,
    /// Not at all.
    Off,
    /// As fast as zstd can.
    Fastest,
    /// Smaller than `auto`, slower.
    Better,
    /// As small as it gets.
    Max,
}

impl GlobalArgs {
    /// Returns how much more to say.
    #[must_use]
    pub fn verbosity(&self) -> u8 {
        self.verbose.iter().fold(0, |sum, &n| sum.saturating_add(n))
    }

    /// Returns the addresses that were given, at least one.
    ///
    /// # Errors
    /// None was given, or both an address and a file.
    pub fn repositories(&self) -> CliResult<Vec<String>> {
        let named: Vec<&String> = self.repo.iter().filter(|address| !address.is_empty()).collect();
        let file = self.repository_file.as_ref().filter(|path| !path.as_os_str().is_empty());
        match (named.is_empty(), file) {
            (false, None) => Ok(named.into_iter().cloned().collect()),
            (true, Some(path)) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|error| CliError::failure(format!("read repository file {}: {error}", path.display())))?;
                Ok(vec![text.trim().to_owned()])
            }
            (false, Some(_)) => Err(CliError::usage("--repo and --repository-file exclude each other")
                .hint("unset RESTIC_REPOSITORY or RESTIC_REPOSITORY_FILE")),
            (true, None) => {
                Err(CliError::usage("no repository was named").hint("give one with -r or in RESTIC_REPOSITORY"))
            }
        }
    }

    /// Returns the folder of all caches; `None` under `--no-cache`, and where there is no home.
    #[must_use]
    pub fn cache_directory(&self) -> Option<PathBuf> {
        if self.no_cache {
            return None;
        }
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        self.cache_dir.clone().filter(|dir| !dir.as_os_str().is_empty()).or_else(|| {
            variable("RESTIC_CACHE_DIR")
                .or_else(|| variable("XDG_CACHE_HOME"))
                .or_else(|| variable("HOME").map(|home| home.join(".cache")))
                .map(|dir| dir.join("stash-fs"))
        })
    }
}

fn parse_memory(text: &str) -> Result<usize, String> {
    usize::try_from(parse_bytes(text)?).map_err(|_| format!("`{text}` is more than this machine can address"))
}

fn parse_option(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is not KEY=VALUE"))?;
    Ok((key.trim().to_ascii_lowercase(), value.trim().to_owned()))
}

/// What a verb runs with.
#[derive(Debug)]
pub struct Context {
    /// The options of every verb.
    pub global: GlobalArgs,
    /// Set by SIGINT and SIGTERM.
    pub interrupt: Interrupt,
    /// What opens the repository, where the caller knows it and the options do not say it.
    pub(super) given: Option<Access>,
}

impl Context {
    /// Takes the options and starts the log. That of a pod's container is read when it is over, so it says more, and what the
    /// options say alone.
    ///
    /// # Errors
    /// None now; options that cannot be carried out will be named here.
    pub(super) fn new(global: GlobalArgs, is_of_container: bool) -> CliResult<Self> {
        telemetry::init(LogOptions {
            verbosity: global.verbosity().saturating_add(u8::from(is_of_container)),
            quiet: global.quiet,
            json: global.log_json,
            environment: !is_of_container,
        });
        Ok(Self { global, interrupt: Interrupt::default(), given: None })
    }

    /// Returns standard output under the options.
    #[must_use]
    pub fn out(&self) -> Out {
        Out::stdout(&self.global)
    }

    /// Returns the address of the one repository that is named.
    ///
    /// # Errors
    /// None or several are named; the address is wrong.
    pub fn location(&self) -> CliResult<Location> {
        if let Some(access) = &self.given {
            return access.location();
        }
        match self.global.repositories()?.as_slice() {
            [one] => location(one),
            _ => Err(CliError::usage("this verb works on one repository, and several were named")),
        }
    }

    /// Returns the password of the repository; asks at the terminal if nothing else gives it.
    ///
    /// # Errors
    /// No source gives one.
    pub fn password(&self) -> CliResult<Zeroizing<String>> {
        match &self.given {
            Some(access) => Ok(access.password.clone()),
            None => password::password(&self.global),
        }
    }

    /// Returns a password that is to be set for the repository; asks twice at the terminal if nothing else gives it.
    ///
    /// # Errors
    /// No source gives one; it is empty.
    pub fn new_password(&self, question: &str) -> CliResult<Zeroizing<String>> {
        let global = &self.global;
        let sources = password::Sources {
            file: global.password_file.as_deref(),
            command: global.password_command.as_deref(),
            variable: "RESTIC_PASSWORD",
            none: global.insecure_no_password,
        };
        password::choose_new(&sources, question)
    }

    /// Returns how stores are reached under the options.
    #[must_use]
    pub fn connect_options(&self) -> ConnectOptions {
        let global = &self.global;
        let options = ConnectOptions {
            extended: global.option.iter().cloned().collect::<BTreeMap<_, _>>(),
            cacert: global.cacert.iter().filter(|path| !path.as_os_str().is_empty()).cloned().collect(),
            tls_client_cert: global.tls_client_cert.clone().filter(|path| !path.as_os_str().is_empty()),
            insecure_tls: global.insecure_tls,
            limit_download: global.limit_download.map(|kib| kib.saturating_mul(1024)),
            limit_upload: global.limit_upload.map(|kib| kib.saturating_mul(1024)),
            deadline: global.deadline,
            metrics: Arc::new(Metrics::default()),
            // The process's environment, and whatever else the machine keeps for a person.
            ..ConnectOptions::from_process()
        };
        match &self.given {
            Some(access) => access.connect_options(options),
            None => options,
        }
    }

    /// Returns how each of so many repositories is opened under the options.
    #[must_use]
    pub fn repository_options(&self, repositories: usize) -> RepositoryOptions {
        let limit_bytes = cgroup::memory_limit_bytes();
        RepositoryOptions {
            cache_dir: self.global.cache_directory(),
            cache_size_bytes: self.global.cache_size,
            memory_bytes: cgroup::share_bytes(self.global.memory, limit_bytes, repositories),
            deadline: self.global.deadline,
            key_hint: self.global.key_hint.clone(),
            ..RepositoryOptions::default()
        }
    }

    /// Reaches the store of the one repository that is named.
    ///
    /// # Errors
    /// Wrong address or credentials.
    pub async fn backend(&self) -> CliResult<Arc<dyn Backend>> {
        Ok(connect::connect(&self.location()?, &self.connect_options()).await?)
    }

    /// Opens the one repository that is named, and loads its index.
    ///
    /// # Errors
    /// None or several are named; wrong address, password or credentials.
    pub async fn open(&self) -> CliResult<Repository> {
        let repository = self.open_unindexed().await?;
        repository.refresh().await?;
        Ok(repository)
    }

    /// Opens the one repository that is named, without its index: enough to list snapshots.
    ///
    /// # Errors
    /// As [`Context::open`].
    pub async fn open_unindexed(&self) -> CliResult<Repository> {
        let connect_options = self.connect_options();
        let backend = connect::connect(&self.location()?, &connect_options).await?;
        let password = self.password()?;
        let mut options = self.repository_options(1);
        options.metrics = connect_options.metrics;
        Ok(Repository::open(backend, &password, options).await?)
    }

    /// Runs a verb that may be dropped where it stands when a signal comes.
    pub(super) fn run(&self, verb: impl Future<Output = CliResult<Exit>>) -> CliResult<Exit> {
        self.block_on(async {
            tokio::select! {
                // The handlers stand before the verb begins.
                biased;
                result = interrupt::signal() => interrupted(result),
                result = verb => result,
            }
        })
    }

    /// Runs a verb that looks at [`Context::interrupt`] and ends in order; a second signal drops it.
    pub(super) fn run_to_end(&self, verb: impl Future<Output = CliResult<Exit>>) -> CliResult<Exit> {
        let second_signal = async {
            interrupt::signal().await?;
            self.interrupt.set();
            interrupt::signal().await
        };
        self.block_on(async {
            tokio::select! {
                result = verb => result,
                result = second_signal => interrupted(result),
            }
        })
    }

    pub(super) fn block_on(&self, work: impl Future<Output = CliResult<Exit>>) -> CliResult<Exit> {
        let runtime = runtime()?;
        let result = runtime.block_on(work);
        // Work that a signal left behind does not hold the process.
        runtime.shutdown_background();
        result
    }
}

/// Starts the I/O runtime: few threads, named `io-N`.
///
/// # Errors
/// The system has no threads left.
pub(crate) fn runtime() -> CliResult<tokio::runtime::Runtime> {
    let next = AtomicUsize::new(0);
    // A thread inherits where its starter may run, and a thread that reads FUSE requests may be bound to one processor.
    let all = rustix::thread::sched_getaffinity(None).ok();
    let unbind = move || {
        if let Some(all) = &all {
            let _ = rustix::thread::sched_setaffinity(None, all);
        }
    };
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(IO_THREADS)
        .thread_name_fn(move || format!("io-{}", next.fetch_add(1, Ordering::Relaxed)))
        .on_thread_start(unbind)
        .enable_all()
        .build()
        .map_err(|error| CliError::failure(format!("start the I/O threads: {error}")))
}

fn interrupted(signal: std::io::Result<()>) -> CliResult<Exit> {
    match signal {
        Ok(()) => Err(CliError::interrupted()),
        Err(error) => Err(CliError::failure(format!("wait for signals: {error}"))),
    }
}

/// Parses an address. The message names no part of it that may be secret.
pub(super) fn location(address: &str) -> CliResult<Location> {
    Location::parse(address).map_err(|error| CliError::usage(error.to_string()))
}
