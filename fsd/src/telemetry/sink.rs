//! Where log lines go: standard error, a file, or syslog.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use parking_lot::RwLock;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// syslog's facility `daemon`, in its place (RFC 3164, section 4.1.1).
const FACILITY: u8 = 3 << 3;

/// syslog(3)'s socket.
const SYSLOG: &str = "/dev/log";

/// The one place that log lines go to.
#[derive(Debug)]
pub(super) struct Sink {
    target: RwLock<Target>,
}

#[derive(Debug)]
enum Target {
    Stderr,
    File(File),
    Syslog(UnixDatagram),
    /// There is no syslog, and no file was named.
    Nowhere,
}

static SHARED: Sink = Sink { target: RwLock::new(Target::Stderr) };

impl Sink {
    pub(super) fn shared() -> &'static Self {
        &SHARED
    }

    pub(super) fn detach(&self, file: Option<&Path>) -> io::Result<()> {
        let target = match file {
            Some(path) => Target::File(OpenOptions::new().create(true).append(true).open(path)?),
            None => syslog().map_or(Target::Nowhere, Target::Syslog),
        };
        *self.target.write() = target;
        Ok(())
    }

    pub(super) fn say(&self, text: &str) {
        for line in text.lines() {
            let mut line = line.to_owned();
            line.push('\n');
            // There is nobody to tell that the log cannot be written.
            drop(self.write_line(Level::INFO, line.as_bytes()));
        }
    }

    fn write_line(&self, level: Level, line: &[u8]) -> io::Result<()> {
        match &*self.target.read() {
            Target::Stderr => io::stderr().lock().write_all(line),
            // Opened for appending, so lines of several processes do not overwrite each other.
            Target::File(file) => (&mut &*file).write_all(line),
            Target::Syslog(socket) => {
                let mut message =
                    format!("<{}>stash-fs[{}]: ", FACILITY | severity(level), std::process::id()).into_bytes();
                message.extend_from_slice(line.trim_ascii_end());
                socket.send(&message).map(drop)
            }
            Target::Nowhere => Ok(()),
        }
    }
}

fn syslog() -> Option<UnixDatagram> {
    let socket = UnixDatagram::unbound().ok()?;
    socket.connect(SYSLOG).ok()?;
    Some(socket)
}

/// RFC 3164: 3 error, 4 warning, 6 informational, 7 debug.
fn severity(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// One line: `tracing_subscriber` writes it in one piece.
pub(super) struct Line(Level);

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Sink::shared().write_line(self.0, bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for &'static Sink {
    type Writer = Line;

    fn make_writer(&self) -> Line {
        Line(Level::INFO)
    }

    fn make_writer_for(&self, metadata: &Metadata<'_>) -> Line {
        Line(*metadata.level())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_file_takes_lines_of_two_writers() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for text in ["one\ntwo", "three"] {
            let sink = Sink { target: RwLock::new(Target::Stderr) };
            sink.detach(Some(file.path())).unwrap();
            sink.say(text);
        }
        assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "one\ntwo\nthree\n");
    }

    #[test]
    fn test_a_file_that_cannot_be_opened_is_an_error() {
        let sink = Sink { target: RwLock::new(Target::Stderr) };
        assert!(sink.detach(Some(Path::new("/nowhere/at/all"))).is_err());
    }
}
