//! The terminal of whoever calls: raw while a shell in the pod has it, and as it was afterwards, whatever happens.

use std::io::IsTerminal as _;

use kube::api::TerminalSize;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use stash_fs::cli::{CliError, CliResult};

/// A terminal that hands on every key.
pub(crate) struct Raw {
    before: Termios,
}

impl Raw {
    /// Whether standard input and output are a terminal.
    pub(crate) fn is_possible() -> bool {
        std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
    }

    /// Sets the terminal of standard input.
    pub(crate) fn begin() -> CliResult<Self> {
        let failed = |error| CliError::failure(format!("set the terminal: {error}"));
        let before = tcgetattr(std::io::stdin()).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Now, &raw).map_err(failed)?;
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // The terminal may be gone.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Returns the size of the terminal of standard output.
pub(crate) fn size() -> Option<TerminalSize> {
    let size = tcgetwinsize(std::io::stdout()).ok()?;
    Some(TerminalSize { width: size.ws_col, height: size.ws_row })
}
