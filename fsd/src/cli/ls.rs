//! `ls`: the files of a snapshot.

use clap::Args as ClapArgs;
use stash_repo::{NodeKind, Snapshot};

use super::node::{LsNode, SnapshotJson, long_line, show_snapshot_time};
use super::output::{Out, show_name};
use super::select::{SnapshotFilter, split_spec};
use super::{CliError, CliResult, Context, Exit};
use crate::walk::{Located, Step, Visited, Walk, locate};

/// The arguments of `ls`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The snapshot, or a path in it: an id, its beginning, `latest`, `latest~N`, then perhaps `:PATH`
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    snapshot: String,
    /// Only what is in these directories (absolute)
    #[arg(value_name = "DIR")]
    directories: Vec<String>,
    #[command(flatten)]
    filter: SnapshotFilter,
    /// Show mode, owner, size and time
    #[arg(short, long)]
    long: bool,
    /// Also what is in directories below the given ones
    #[arg(long)]
    recursive: bool,
}

/// Runs the verb.
pub(super) async fn run(args: Args, context: &Context) -> CliResult<Exit> {
    if let Some(relative) = args.directories.iter().find(|dir| !dir.starts_with('/')) {
        return Err(CliError::usage(format!("directory {relative} is not absolute")).hint("begin it with `/`"));
    }
    let repository = context.open().await?;
    let (name, path) = split_spec(&args.snapshot);
    let snapshot = args.filter.one(&repository, name).await?;
    let mut listing = Listing { out: context.out(), long: args.long, exit: Exit::Success };
    listing.header(&snapshot)?;
    let located = locate(&repository, snapshot.tree, path.unwrap_or("/").as_bytes()).await?.ok_or_else(|| {
        CliError::failure(format!(
            "snapshot {} has no {}",
            snapshot.id.0.short(),
            show_name(path.unwrap_or("/").as_bytes())
        ))
    })?;
    let root = match &located {
        // A file stands for itself.
        Located::Entry(entry) if entry.node().kind() != NodeKind::Dir => {
            listing.entry(entry)?;
            None
        }
        _ => located.tree(),
    };
    if let Some(root) = root {
        let directories: Vec<Vec<u8>> = args.directories.iter().map(|dir| clean(dir)).collect();
        let mut walk = Walk::new(&repository, root);
        while let Some(step) = walk.next().await {
            match step {
                Step::Entry(entry) => {
                    let place = place(&entry.path, &directories, args.recursive);
                    if place.shown {
                        listing.entry(&entry)?;
                    }
                    if !place.descend {
                        walk.skip();
                    }
                }
                Step::Failed { path, error } => listing.failed(&path, &error)?,
                Step::Leave { .. } => {}
            }
        }
    }
    listing.out.finish()?;
    Ok(listing.exit)
}

struct Listing {
    out: Out,
    long: bool,
    exit: Exit,
}

impl Listing {
    fn header(&mut self, snapshot: &Snapshot) -> CliResult<()> {
        if self.out.json {
            #[derive(serde::Serialize)]
            struct Header<'a> {
                #[serde(flatten)]
                snapshot: SnapshotJson<'a>,
                struct_type: &'static str,
                message_type: &'static str,
            }
            return self.out.json_line(&Header {
                snapshot: SnapshotJson::new(snapshot),
                struct_type: "snapshot",
                message_type: "snapshot",
            });
        }
        self.out.say(format_args!(
            "snapshot {} of [{}] at {} by {}@{}:",
            snapshot.id.0.short(),
            show_name(snapshot.paths.join(" ").as_bytes()),
            show_snapshot_time(snapshot),
            show_name(snapshot.username.as_bytes()),
            show_name(snapshot.hostname.as_bytes()),
        ))
    }

    fn entry(&mut self, entry: &Visited) -> CliResult<()> {
        let node = entry.node();
        if self.out.json {
            self.out.json_line(&LsNode::new(&entry.path, node))
        } else if self.long {
            self.out.line(long_line(&entry.path, node))
        } else {
            self.out.line(show_name(&entry.path))
        }
    }

    fn failed(&mut self, path: &[u8], error: &stash_repo::RepoError) -> CliResult<()> {
        self.exit = Exit::Incomplete;
        self.out.finish()?;
        eprintln!("stash-fs: list {}: {error}", show_name(path));
        Ok(())
    }
}

/// Brings a directory into the form of a walk's paths; `/` is empty.
fn clean(dir: &str) -> Vec<u8> {
    dir.split('/')
        .filter(|name| !name.is_empty() && *name != ".")
        .flat_map(|name| ["/", name])
        .collect::<String>()
        .into()
}

#[derive(Debug, PartialEq, Eq)]
struct Place {
    shown: bool,
    descend: bool,
}

/// Says whether an entry is one of the directories or lies in one (directly, or anywhere with `recursive`), or on the way to one.
fn place(path: &[u8], directories: &[Vec<u8>], recursive: bool) -> Place {
    if directories.is_empty() {
        return Place { shown: true, descend: true };
    }
    let within = |path: &[u8], dir: &[u8]| {
        path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.first() == Some(&b'/'))
    };
    let parent = path.iter().rposition(|&b| b == b'/').map_or(path, |at| &path[..at]);
    Place {
        shown: directories
            .iter()
            .any(|dir| if recursive { within(path, dir) } else { parent == dir.as_slice() || path == dir.as_slice() }),
        descend: directories.iter().any(|dir| within(dir, path) || (recursive && within(path, dir))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_place() {
        let directories = [clean("/a/b/"), clean("/c")];
        let table = [
            ("/a", false, true, false, true),
            ("/a/b", true, true, true, true),
            ("/a/b/x", true, false, true, true),
            ("/a/b/x/y", false, false, true, true),
            ("/a/bx", false, false, false, false),
            ("/c/d", true, false, true, true),
            ("/d", false, false, false, false),
        ];
        for (path, shown, descend, shown_all, descend_all) in table {
            assert_eq!(place(path.as_bytes(), &directories, false), Place { shown, descend }, "{path}");
            let all = Place { shown: shown_all, descend: descend_all };
            assert_eq!(place(path.as_bytes(), &directories, true), all, "{path} recursive");
        }
        assert_eq!(place(b"/x", &[clean("/")], false), Place { shown: true, descend: false });
    }
}
