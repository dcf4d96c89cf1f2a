//! Names of users and groups, from `/etc/passwd` and `/etc/group`.
//!
//! The files are read directly, as restic's static builds do: a static program cannot load the system's name services.

use std::collections::HashMap;

/// Names by id.
#[derive(Debug, Default)]
pub(crate) struct Names(HashMap<u32, String>);

impl Names {
    /// Users of this system; none where the file cannot be read.
    pub(crate) fn users() -> Self {
        Self::read("/etc/passwd")
    }

    /// Groups of this system; none where the file cannot be read.
    pub(crate) fn groups() -> Self {
        Self::read("/etc/group")
    }

    fn read(path: &str) -> Self {
        Self::parse(&std::fs::read(path).map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default())
    }

    /// Both files have the name first and the id third; the first line of an id counts.
    fn parse(text: &str) -> Self {
        let mut names = HashMap::new();
        for line in text.lines() {
            let mut fields = line.split(':');
            if let (Some(name), _, Some(Ok(id))) = (fields.next(), fields.next(), fields.next().map(str::parse)) {
                names.entry(id).or_insert_with(|| name.to_owned());
            }
        }
        Self(names)
    }

    /// Returns an id's name.
    pub(crate) fn get(&self, id: u32) -> Option<&str> {
        self.0.get(&id).map(String::as_str)
    }
}

/// Returns a user's name.
pub(crate) fn name_of(uid: u32) -> Option<String> {
    Names::users().get(uid).map(str::to_owned)
}

/// Returns the name of the user that this process runs as; empty if there is none.
pub fn current_name() -> String {
    name_of(rustix::process::getuid().as_raw()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_first_line_of_an_id_counts() {
        let names = Names::parse("root:x:0:0::/root:/bin/sh\n# note\nbad:x:y:0\ntoor:x:0:0::/:/bin/sh\nu:x:7:7:::\n");
        assert_eq!((names.get(0), names.get(7), names.get(8)), (Some("root"), Some("u"), None));
    }
}
