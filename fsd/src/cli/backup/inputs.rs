//! What is backed up and what is left out: from arguments and from files that hold lists.

use std::ffi::{OsStr, OsString};
use std::io::Read as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};

use super::Args;
use crate::cli::{CliError, CliResult};
use crate::filter::{Filter, Patterns};

/// More than any list; a file of this size is a mistake.
const LIST_LIMIT_BYTES: u64 = 256 << 20;

impl Args {
    pub(super) fn collect_excludes(&self) -> CliResult<Filter> {
        let collect = |given: &[String], files: &[PathBuf]| -> CliResult<Vec<String>> {
            let mut patterns = given.to_vec();
            for file in files {
                let text = String::from_utf8(read_list(file)?)
                    .map_err(|_| CliError::failure(format!("{}: it is not UTF-8 text", file.display())))?;
                patterns.extend(pattern_lines(&text, |name| std::env::var(name).unwrap_or_default()));
            }
            Ok(patterns)
        };
        let patterns = collect(&self.exclude, &self.exclude_file)?;
        let insensitive = collect(&self.iexclude, &self.iexclude_file)?;
        Filter::exclude(&patterns, &insensitive).map_err(|error| CliError::usage(error.to_string()))
    }

    pub(super) fn collect_targets(&self) -> CliResult<Vec<PathBuf>> {
        let mut targets = Vec::new();
        for file in &self.files_from {
            for line in lines(&read_list(file)?) {
                let line = line.trim_ascii();
                if line.is_empty() || line.starts_with(b"#") {
                    continue;
                }
                let found = expand(line)?;
                if found.is_empty() {
                    eprintln!("pattern {} fits no file", String::from_utf8_lossy(line));
                }
                targets.extend(found);
            }
        }
        for file in &self.files_from_verbatim {
            let list = read_list(file)?;
            let names = lines(&list).filter(|line| !line.is_empty());
            targets.extend(names.map(|line| PathBuf::from(OsStr::from_bytes(line))));
        }
        for file in &self.files_from_raw {
            targets.extend(raw_names(&read_list(file)?).map_err(|error| error.context(file.display()))?);
        }
        targets.extend(self.targets.iter().map(PathBuf::from));
        if targets.iter().any(|target| target.as_os_str().is_empty()) {
            return Err(CliError::usage("an empty name names no file"));
        }
        if targets.is_empty() {
            return Err(CliError::usage("nothing to back up").hint("name files or directories, or use --stdin"));
        }
        Ok(targets)
    }
}

/// Reads a list; `-` is standard input. A byte order mark is no part of it.
fn read_list(path: &Path) -> CliResult<Vec<u8>> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        if path == Path::new("-") {
            std::io::stdin().lock().take(LIST_LIMIT_BYTES + 1).read_to_end(&mut bytes)?;
        } else {
            std::fs::File::open(path)?.take(LIST_LIMIT_BYTES + 1).read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    };
    let bytes = read().map_err(|error| CliError::failure(format!("read {}: {error}", path.display())))?;
    if bytes.len() as u64 > LIST_LIMIT_BYTES {
        return Err(CliError::failure(format!("{} is larger than 256 MiB", path.display())));
    }
    Ok(bytes.strip_prefix(b"\xef\xbb\xbf").map(<[u8]>::to_vec).unwrap_or(bytes))
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

fn raw_names(bytes: &[u8]) -> CliResult<Vec<PathBuf>> {
    let Some(names) = bytes.strip_suffix(b"\0") else {
        return if bytes.is_empty() { Ok(Vec::new()) } else { Err(CliError::failure("the last zero byte is missing")) };
    };
    let names = names.split(|byte| *byte == 0).map(|name| match name {
        b"" => Err(CliError::failure("an empty name names no file")),
        name => Ok(PathBuf::from(OsString::from_vec(name.to_vec()))),
    });
    names.collect()
}

/// Patterns, one a line, without comments; `$NAME` and `${NAME}` stand for variables, `$$` for a dollar.
fn pattern_lines(text: &str, variable: impl Fn(&str) -> String) -> Vec<String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| expand_variables(line, &variable)).filter(|pattern| !pattern.is_empty()).collect()
}

fn expand_variables(line: &str, variable: &impl Fn(&str) -> String) -> String {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        rest = after;
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('{').and_then(|braced| braced.split_once('}')) {
            out.push_str(&variable(name));
            rest = after;
        } else {
            let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
            if end == 0 {
                out.push('$');
            } else {
                out.push_str(&variable(&rest[..end]));
                rest = &rest[end..];
            }
        }
    }
    out + rest
}

/// Expands a pattern to the paths that exist, as a shell does, but with names that begin with a dot.
fn expand(pattern: &[u8]) -> CliResult<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = vec![PathBuf::new()];
    for component in Path::new(OsStr::from_bytes(pattern)).components() {
        match component {
            Component::Normal(name) if name.as_bytes().iter().any(|byte| b"*?[\\".contains(byte)) => {
                let text = name.to_str().ok_or_else(|| CliError::usage("a pattern must be UTF-8"))?;
                // A leading `!` would take back; here it is a character.
                let text = text.strip_prefix('!').map_or_else(|| text.to_owned(), |rest| format!("\\!{rest}"));
                let patterns = Patterns::parse([text], false).map_err(|error| CliError::usage(error.to_string()))?;
                found = found.iter().flat_map(|dir| entries(dir, &patterns)).collect();
            }
            other => found.iter_mut().for_each(|path| path.push(other)),
        }
    }
    found.retain(|path| std::fs::symlink_metadata(path).is_ok());
    Ok(found)
}

fn entries(dir: &Path, patterns: &Patterns) -> Vec<PathBuf> {
    let listed = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    let Ok(entries) = std::fs::read_dir(listed) else { return Vec::new() };
    let fits = |name: &OsStr| patterns.matches(&[b"/", name.as_bytes()].concat()).0;
    let names = entries.filter_map(|entry| Some(entry.ok()?.file_name())).filter(|name| fits(name));
    let mut paths: Vec<PathBuf> = names.map(|name| dir.join(name)).collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_pattern_files_have_comments_and_variables() {
        let variable = |name: &str| if name == "HOME" { "/home/u".to_owned() } else { String::new() };
        let text = "# note\n\n  *.tmp  \n$HOME/.cache\n${HOME}x\na$$b\n$NONE\nprice $\n";
        assert_eq!(pattern_lines(text, variable), ["*.tmp", "/home/u/.cache", "/home/ux", "a$b", "price $"]);
    }

    #[test]
    fn test_raw_lists_end_with_zero() {
        assert_eq!(raw_names(b"a\0b\nc\0").unwrap(), [PathBuf::from("a"), PathBuf::from("b\nc")]);
        assert!(raw_names(b"").unwrap().is_empty());
        assert!(raw_names(b"a").is_err());
        assert!(raw_names(b"a\0\0").is_err());
    }

    #[test]
    fn test_patterns_expand_to_what_exists() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a1", "a2", "b1", ".a3"] {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name).join("file"), "").unwrap();
        }
        let expand = |pattern: &str| {
            let found = expand(dir.path().join(pattern).as_os_str().as_bytes()).unwrap();
            found.iter().map(|path| path.strip_prefix(dir.path()).unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(expand("a*/file"), [PathBuf::from("a1/file"), PathBuf::from("a2/file")]);
        assert_eq!(expand("*1"), [PathBuf::from("a1"), PathBuf::from("b1")]);
        assert_eq!(expand("b1"), [PathBuf::from("b1")]);
        assert!(expand("c*").is_empty());
        assert!(expand("c").is_empty());
    }
}
