//! Where the repository's password comes from: a file, a command, the environment or the terminal; never the arguments.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::process::{Command, Stdio};

use zeroize::Zeroizing;

use super::{CliError, CliResult, GlobalArgs};

/// More than any password; a file of this size is a mistake.
const MAX_PASSWORD_BYTES: u64 = 1 << 20;

/// Variables that hold secrets of ours or of our stores: the password command's child does not get them.
pub(super) const SECRET_VARIABLES: &[&str] = &[
    "RESTIC_PASSWORD",
    "RESTIC_PASSWORD2",
    "RESTIC_FROM_PASSWORD",
    "STASH_FS_NEW_PASSWORD",
    "RESTIC_REPOSITORY",
    "RESTIC_FROM_REPOSITORY",
    "RESTIC_REST_PASSWORD",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_ACCOUNT_KEY",
    "AZURE_ACCOUNT_SAS",
    "B2_ACCOUNT_KEY",
    "GOOGLE_ACCESS_TOKEN",
    "OS_PASSWORD",
    "OS_APPLICATION_CREDENTIAL_SECRET",
    "OS_AUTH_TOKEN",
    "ST_KEY",
];

/// Returns the repository's password, by restic's order: command, file, `RESTIC_PASSWORD`, terminal.
///
/// # Errors
/// Two sources exclude each other, a source fails, or there is none and no terminal to ask at.
pub(super) fn password(global: &GlobalArgs) -> CliResult<Zeroizing<String>> {
    let sources = Sources {
        file: global.password_file.as_deref(),
        command: global.password_command.as_deref(),
        variable: "RESTIC_PASSWORD",
        none: global.insecure_no_password,
    };
    choose(&sources, "enter password for repository: ")
}

/// Where a repository's password may come from.
#[derive(Debug)]
pub(super) struct Sources<'a> {
    /// A file.
    pub(super) file: Option<&'a std::path::Path>,
    /// A command line.
    pub(super) command: Option<&'a str>,
    /// A variable that holds the password itself.
    pub(super) variable: &'a str,
    /// The password is empty.
    pub(super) none: bool,
}

/// Takes the password from the one source that is given; asks at the terminal if none is.
///
/// # Errors
/// As [`password`].
pub(super) fn choose(sources: &Sources<'_>, question: &str) -> CliResult<Zeroizing<String>> {
    let environment = std::env::var(sources.variable).ok().filter(|value| !value.is_empty()).map(Zeroizing::new);
    let file = sources.file.filter(|path| !path.as_os_str().is_empty());
    let command = sources.command.filter(|command| !command.is_empty());
    if sources.none {
        if file.is_some() || command.is_some() || environment.is_some() {
            return Err(CliError::usage("--insecure-no-password excludes every other source of a password"));
        }
        return Ok(Zeroizing::new(String::new()));
    }
    match (command, file) {
        (Some(_), Some(_)) => Err(CliError::usage("--password-file and --password-command exclude each other")
            .hint("unset RESTIC_PASSWORD_FILE or RESTIC_PASSWORD_COMMAND")),
        (Some(command), None) => from_command(command),
        (None, Some(path)) => from_file(path),
        (None, None) => match environment {
            Some(password) => Ok(password),
            None => prompt(question),
        },
    }
}

/// Takes a password that is to be set: as [`choose`], but asks twice, and takes none that is empty unless that was asked for.
///
/// # Errors
/// As [`password`]; the two differ; it is empty.
pub(super) fn choose_new(sources: &Sources<'_>, question: &str) -> CliResult<Zeroizing<String>> {
    let asked = sources.file.is_none_or(|path| path.as_os_str().is_empty())
        && sources.command.is_none_or(str::is_empty)
        && std::env::var(sources.variable).unwrap_or_default().is_empty()
        && !sources.none;
    let password = choose(sources, question)?;
    if asked && *prompt("enter password again: ")? != *password {
        return Err(CliError::usage("the passwords differ"));
    }
    if password.is_empty() && !sources.none {
        return Err(CliError::usage("an empty password is no password")
            .hint("--insecure-no-password makes a repository that anybody can read"));
    }
    Ok(password)
}

/// Reads a password file: text without the white space around it.
pub(super) fn from_file(path: &std::path::Path) -> CliResult<Zeroizing<String>> {
    let read = || -> io::Result<Zeroizing<Vec<u8>>> {
        use io::Read as _;
        let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
        std::fs::File::open(path)?.take(MAX_PASSWORD_BYTES + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let shown = path.display();
    let bytes = read().map_err(|error| CliError::failure(format!("read password file {shown}: {error}")))?;
    if bytes.len() as u64 > MAX_PASSWORD_BYTES {
        return Err(CliError::failure(format!("password file {shown} is larger than 1 MiB")));
    }
    text(&bytes).ok_or_else(|| CliError::failure(format!("password file {shown} is not UTF-8 text")))
}

/// Text without a byte order mark and without the white space around it.
fn text(bytes: &[u8]) -> Option<Zeroizing<String>> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    std::str::from_utf8(bytes).ok().map(|text| Zeroizing::new(text.trim().to_owned()))
}

/// Runs a command line and takes its standard output. Its standard input and error are ours, so it may ask the person.
fn from_command(line: &str) -> CliResult<Zeroizing<String>> {
    let words = split_words(line).map_err(CliError::usage)?;
    let Some((program, arguments)) = words.split_first() else {
        return Err(CliError::usage("--password-command is empty"));
    };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::inherit()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    for variable in SECRET_VARIABLES {
        command.env_remove(variable);
    }
    // The command line may hold secrets: only the program is named.
    let output =
        command.output().map_err(|error| CliError::failure(format!("run password command {program}: {error}")))?;
    let bytes = Zeroizing::new(output.stdout);
    if !output.status.success() {
        return Err(CliError::failure(format!("password command {program} failed: {}", output.status)));
    }
    let password = text(&bytes)
        .ok_or_else(|| CliError::failure(format!("password command {program} printed other than UTF-8 text")))?;
    if password.is_empty() {
        return Err(CliError::failure(format!("password command {program} printed nothing")));
    }
    Ok(password)
}

/// Asks at the terminal, without showing what is typed. The question goes to standard error.
///
/// # Errors
/// Standard input is no terminal.
pub(super) fn prompt(question: &str) -> CliResult<Zeroizing<String>> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Err(CliError::usage("no password was given, and there is no terminal to ask at")
            .hint("set RESTIC_PASSWORD, RESTIC_PASSWORD_FILE or RESTIC_PASSWORD_COMMAND"));
    }
    let failed = |error: io::Error| CliError::failure(format!("read the password at the terminal: {error}"));
    let before = tcgetattr(&stdin).map_err(|error| failed(error.into()))?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    silent.local_modes.insert(LocalModes::ECHONL);
    eprint!("{question}");
    io::stderr().flush().map_err(failed)?;
    tcsetattr(&stdin, OptionalActions::Flush, &silent).map_err(|error| failed(error.into()))?;
    let mut line = Zeroizing::new(String::with_capacity(256));
    let read = stdin.lock().read_line(&mut line);
    tcsetattr(&stdin, OptionalActions::Now, &before).map_err(|error| failed(error.into()))?;
    read.map_err(failed)?;
    Ok(Zeroizing::new(line.trim_end_matches(['\r', '\n']).to_owned()))
}

/// Splits a command line into words as restic does: white space parts, `'` and `"` quote, `\` escapes outside of `'`.
///
/// Source: restic, `internal/backend/shell_split.go`.
fn split_words(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some('\''), c) => word.get_or_insert_default().push(c),
            (_, '\\') => {
                let next = chars.next().ok_or_else(|| "a command ends with a backslash".to_owned())?;
                word.get_or_insert_default().push(next);
            }
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("a command has an open quote".to_owned());
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_split_words() {
        let table: [(&str, Option<&[&str]>); 8] = [
            ("", Some(&[])),
            ("cat  /a", Some(&["cat", "/a"])),
            ("cat '/a b' \"c d\"", Some(&["cat", "/a b", "c d"])),
            ("cat a'b'\"c\"", Some(&["cat", "abc"])),
            (r"cat a\ b 'c\d'", Some(&["cat", "a b", r"c\d"])),
            ("cat ''", Some(&["cat", ""])),
            ("cat 'a", None),
            (r"cat \", None),
        ];
        for (line, want) in table {
            let want = want.map(|words| words.iter().map(|&word| word.to_owned()).collect());
            assert_eq!(split_words(line).ok(), want, "{line}");
        }
    }

    #[test]
    fn test_file_and_command_lose_the_white_space_around() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, b"\xef\xbb\xbf secret word \r\n").unwrap();
        assert_eq!(from_file(file.path()).unwrap().as_str(), "secret word");
        let line = format!("cat '{}'", file.path().display());
        assert_eq!(from_command(&line).unwrap().as_str(), "secret word");
    }

    #[test]
    fn test_command_fails_without_its_arguments_in_the_message() {
        let error = from_command("false --token=abc").unwrap_err();
        assert!(error.message.contains("false") && !error.message.contains("abc"), "{}", error.message);
        assert!(from_command("true").is_err());
    }
}
