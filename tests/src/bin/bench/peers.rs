//! How each program is told to mount.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::process::Mount;

/// A program that mounts the repository.
#[derive(Debug, Clone)]
pub(crate) enum Peer {
    Ours { program: PathBuf },
    Restic,
    Rustic { program: PathBuf },
}

/// A repository, for every program.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// restic's address.
    pub address: String,
    /// restic's environment, with the password and the store's credentials.
    pub env: Vec<(String, OsString)>,
    /// The source directory as it stands in the snapshot, without the leading slash.
    pub inside: PathBuf,
    /// Where mounts, caches and logs go.
    pub work: PathBuf,
}

impl Peer {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Ours { .. } => "stash-fs",
            Self::Restic => "restic",
            Self::Rustic { .. } => "rustic",
        }
    }

    pub(crate) fn version(&self) -> Result<String> {
        let program = match self {
            Self::Ours { program } | Self::Rustic { program } => program.clone(),
            Self::Restic => PathBuf::from("restic"),
        };
        let arg = if matches!(self, Self::Restic) { "version" } else { "--version" };
        let output = Command::new(&program).arg(arg).output().with_context(|| format!("run {}", program.display()))?;
        Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
    }

    fn cache_dir(&self, target: &Target) -> PathBuf {
        target.work.join(format!("cache-{}", self.name()))
    }

    /// Forgets everything that the program keeps on disk.
    pub(crate) fn drop_cache(&self, target: &Target) -> Result<()> {
        let dir = self.cache_dir(target);
        if dir.exists() {
            std::fs::remove_dir_all(&dir)?;
        }
        Ok(())
    }

    /// Starts a mount in a new process; the tree is at [`Peer::tree`].
    pub(crate) fn mount(&self, target: &Target, with_cache: bool) -> Result<Mount> {
        let at = target.work.join(format!("mnt-{}", self.name()));
        let log = target.work.join(format!("{}.log", self.name()));
        let mut env = target.env.clone();
        let mut args: Vec<OsString> = Vec::new();
        let cache = self.cache_dir(target);
        std::fs::create_dir_all(&cache)?;
        let (program, probe) = match self {
            Self::Ours { program } => {
                args.extend(["-r".into(), target.address.clone().into(), "mount".into(), at.clone().into()]);
                args.extend(if with_cache {
                    vec!["--cache-dir".into(), cache.into()]
                } else {
                    vec!["--no-cache".into()]
                });
                (program.clone(), "snapshots")
            }
            Self::Restic => {
                args.extend(["-r".into(), target.address.clone().into(), "mount".into(), at.clone().into()]);
                args.extend(if with_cache {
                    vec!["--cache-dir".into(), cache.into()]
                } else {
                    vec!["--no-cache".into()]
                });
                (PathBuf::from("restic"), "snapshots")
            }
            Self::Rustic { program } => {
                env.push(("RUSTIC_REPOSITORY".into(), target.address.clone().into()));
                let password = target.env.iter().find(|(k, _)| k == "RESTIC_PASSWORD").context("password")?.1.clone();
                env.push(("RUSTIC_PASSWORD".into(), password));
                args.extend(if with_cache {
                    vec!["--cache-dir".into(), cache.into()]
                } else {
                    vec!["--no-cache".into()]
                });
                args.extend(["mount".into(), at.clone().into(), "latest".into()]);
                (program.clone(), "")
            }
        };
        Mount::start(&program, &args, &env, &at, probe, &log)
    }

    /// Returns where the source's tree stands in the mount.
    pub(crate) fn tree(&self, target: &Target) -> PathBuf {
        let at = target.work.join(format!("mnt-{}", self.name()));
        match self {
            Self::Rustic { .. } => at.join(&target.inside),
            _ => at.join("snapshots/latest").join(&target.inside),
        }
    }
}

impl Target {
    /// Makes the repository with Debian's restic, unless it holds a snapshot already.
    pub(crate) fn prepare(&self, source: &Path) -> Result<()> {
        if self.restic(&["snapshots", "--json", "--quiet"]).is_ok_and(|out| out.len() > 10) {
            return Ok(());
        }
        eprintln!("restic backs up {}", source.display());
        self.restic(&["init"])?;
        let source = source.to_str().context("the path is not UTF-8")?;
        self.restic(&["backup", "--quiet", source])?;
        Ok(())
    }

    /// Runs restic on the repository.
    pub(crate) fn restic(&self, args: &[&str]) -> Result<Vec<u8>> {
        let output = Command::new("restic")
            .arg("-r")
            .arg(&self.address)
            .arg("--cache-dir")
            .arg(self.work.join("cache-restic-admin"))
            .args(args)
            .envs(self.env.iter().map(|(k, v)| (k, v)))
            .output()?;
        ensure!(output.status.success(), "restic {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
        Ok(output.stdout)
    }
}
