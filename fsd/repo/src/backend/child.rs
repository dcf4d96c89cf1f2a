//! Programs that stores are reached through (`ssh`, `rclone`): how they are started, and what they get to see.
//!
//! No secret of ours is in their arguments, and their environment lacks what they have no use for: the repository's
//! password and how to get it ([`NEVER`]), and for `ssh` also the credentials of object stores ([`CREDENTIALS`]). rclone
//! keeps those: its own configuration may say that it takes them from there (`env_auth`).

use std::process::Stdio;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::connect::ConnectOptions;
use super::error::Failure;

/// Starts of names that no child needs.
const NEVER: &[&str] = &["RESTIC_", "STASH_"];

/// Starts of names of credentials of object stores.
const CREDENTIALS: &[&str] = &["AWS_", "AZURE_", "B2_", "GOOGLE_", "MINIO_", "OS_", "RCLONE_", "ST_", "SWIFT_"];

/// What a program needs to find its configuration and to ask a person, where the environment is not taken over whole.
const ORDINARY: &[&str] = &["PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "LANG", "SSH_AUTH_SOCK"];

/// The longest piece of what a program says that is kept.
const MAX_LINE_BYTES: u64 = 4096;

/// A program and its arguments.
#[derive(Debug, Clone)]
pub(super) struct Program {
    /// The name and the arguments; the name is the first.
    words: Vec<String>,
    environment: Vec<(String, String)>,
    /// Whether what this process has is added to the environment.
    inherit: bool,
    removed: Vec<&'static str>,
}

/// A program that runs. It is killed when this is dropped.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    last_line: Arc<Mutex<String>>,
}

impl Program {
    /// Names a program; `gets_credentials` as the module says.
    pub(super) fn new(words: Vec<String>, options: &ConnectOptions, gets_credentials: bool) -> Self {
        let mut removed = NEVER.to_vec();
        if !gets_credentials {
            removed.extend(CREDENTIALS);
        }
        let kept = |name: &str| !removed.iter().any(|start| name.starts_with(start));
        let environment = options.environment.iter().filter(|(name, _)| kept(name));
        let environment = environment.map(|(name, value)| (name.clone(), value.clone())).collect();
        Self { words, environment, inherit: options.ambient, removed }
    }

    /// Returns the program's name for messages.
    pub(super) fn name(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// Starts the program with pipes to its standard streams.
    ///
    /// # Errors
    /// It cannot be started.
    pub(super) fn start(&self) -> Result<(Running, ChildStdout, ChildStdin), Failure> {
        let (name, arguments) =
            self.words.split_first().ok_or_else(|| Failure::invalid("the program's name is empty"))?;
        let mut command = Command::new(name);
        command.args(arguments).env_clear();
        for (name, value) in std::env::vars_os() {
            let known = name.to_str().is_some_and(|name| {
                !self.removed.iter().any(|start| name.starts_with(start)) && (self.inherit || ORDINARY.contains(&name))
            });
            // Names that are not UTF-8 are passed on only where all are.
            if known || (self.inherit && name.to_str().is_none()) {
                command.env(name, value);
            }
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command
            .spawn()
            .map_err(|error| Failure::invalid(format!("the program {} cannot be started: {error}", self.name())))?;
        let (Some(stdout), Some(stdin), Some(stderr)) = (child.stdout.take(), child.stdin.take(), child.stderr.take())
        else {
            return Err(Failure::invalid("the program has no standard streams"));
        };
        let last_line = Arc::new(Mutex::new(String::new()));
        tokio::spawn(keep_last_line(stderr, self.name().to_owned(), Arc::clone(&last_line)));
        Ok((Running { child, last_line }, stdout, stdin))
    }
}

/// Reads what the program says to its end, or it would block, and keeps the end of the last line.
///
/// The part before the last colon names what the program was asked for, which may hold a password (rclone's connection
/// strings); the part after it says what is wrong.
async fn keep_last_line(stderr: tokio::process::ChildStderr, program: String, last_line: Arc<Mutex<String>>) {
    let mut stderr = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut stderr).take(MAX_LINE_BYTES).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim();
        if text.is_empty() {
            continue;
        }
        let end: String =
            text.rsplit(": ").next().unwrap_or(text).chars().filter(|c| !c.is_control()).take(200).collect();
        tracing::debug!(program, message = end, "a program says");
        *last_line.lock() = end;
    }
}

impl Running {
    /// Says why the connection to the program broke, as far as it said so itself.
    pub(super) fn failure(&mut self, program: &Program) -> Failure {
        let name = program.name();
        let said = self.last_line.lock().clone();
        let said = if said.is_empty() { said } else { format!(": {said}") };
        match self.child.try_wait() {
            Ok(Some(status)) => Failure::unavailable(format!("{name} ended ({status}){said}")),
            _ => Failure::unavailable(format!("the connection to {name} broke{said}")),
        }
    }

    /// Waits until the program has ended.
    pub(super) async fn wait(&mut self) {
        drop(self.child.wait().await);
    }
}

/// Splits a command line as a shell does: blanks, single and double quotes, backslashes (restic,
/// `internal/backend/shell_split.go`). Nothing is expanded.
///
/// # Errors
/// A quote is not closed.
pub(super) fn split_words(text: &str) -> Result<Vec<String>, Failure> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None | Some('"'), '\\') => word.get_or_insert_default().extend(chars.next()),
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err(Failure::invalid("a quote in the command line is not closed"));
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn test_words_are_split_as_a_shell_does() {
        for (text, words) in [
            ("", vec![]),
            ("  ssh  -p 22 ", vec!["ssh", "-p", "22"]),
            ("a 'b c' \"d \\\" e\" f\\ g ''", vec!["a", "b c", "d \" e", "f g", ""]),
            ("'a\\b'x", vec!["a\\bx"]),
        ] {
            assert_eq!(split_words(text).ok().unwrap(), words, "{text}");
        }
        assert!(split_words("a 'b").is_err());
    }

    async fn environment_of_child(gets_credentials: bool) -> String {
        let environment = ["RESTIC_PASSWORD", "RESTIC_PASSWORD_COMMAND", "AWS_SECRET_ACCESS_KEY", "HARMLESS"];
        let environment = environment.map(|name| (name.to_owned(), "hush".to_owned())).into();
        let options = ConnectOptions { environment, ..ConnectOptions::default() };
        let (_running, mut stdout, _) =
            Program::new(vec!["env".to_owned()], &options, gets_credentials).start().ok().unwrap();
        let mut text = String::new();
        stdout.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn test_a_child_sees_no_password() {
        for gets_credentials in [false, true] {
            let text = environment_of_child(gets_credentials).await;
            assert!(text.contains("HARMLESS=hush") && text.contains("PATH="), "{text}");
            assert!(!text.contains("RESTIC_"), "{text}");
            assert_eq!(text.contains("AWS_SECRET_ACCESS_KEY"), gets_credentials, "{text}");
        }
    }

    #[tokio::test]
    async fn test_a_program_that_is_not_there_is_named() {
        let program = Program::new(vec!["/no/such/program".to_owned()], &ConnectOptions::default(), false);
        let error = program.start().unwrap_err().at("connect", "", "");
        assert!(error.message.contains("/no/such/program cannot be started"), "{}", error.message);
    }

    #[tokio::test]
    async fn test_what_a_program_said_last_is_told_without_what_it_was_asked() {
        let script = "echo 'Failed for \":s3,secret=hush:b\": no such section' >&2; exit 3";
        let words = ["sh", "-c", script].map(str::to_owned).to_vec();
        let program = Program::new(words, &ConnectOptions::default(), false);
        let (mut running, mut stdout, _stdin) = program.start().ok().unwrap();
        drop(stdout.read_to_end(&mut Vec::new()).await);
        drop(running.child.wait().await);
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while running.last_line.lock().is_empty() && std::time::Instant::now() < end {
            tokio::task::yield_now().await;
        }
        let message = running.failure(&program).at("read", "", "").message;
        assert_eq!(message, "sh ended (exit status: 3): no such section");
    }

    proptest! {
        #[test]
        fn test_any_text_is_words_or_none(text in r#"([a-z '"\\]|\PC)*"#) {
            if let Ok(words) = split_words(&text) {
                prop_assert!(words.iter().map(String::len).sum::<usize>() <= text.len());
            }
        }

        #[test]
        fn test_quoted_words_come_out_as_they_went_in(words: Vec<String>) {
            let quoted: Vec<_> = words.iter().map(|word| format!("'{}'", word.replace('\'', r#"'"'"'"#))).collect();
            prop_assert_eq!(split_words(&quoted.join(" ")).ok(), Some(words));
        }
    }
}
