//! What a service needs, out of restic's environment variables and `-o` options; what is missing or unknown is named.

use super::connect::ConnectOptions;
use super::error::Failure;

/// The options that restic knows (`restic options`, and its documentation up to 0.18), and our endpoints.
const KNOWN: &[&str] = &[
    "azure.access-tier",
    "azure.connections",
    "azure.endpoint",
    "b2.connections",
    "b2.endpoint",
    "gs.connections",
    "gs.endpoint",
    "gs.region",
    "local.connections",
    "local.layout",
    "rclone.args",
    "rclone.connections",
    "rclone.program",
    "rest.connections",
    "s3.bucket-lookup",
    "s3.connections",
    "s3.layout",
    "s3.list-objects-v1",
    "s3.region",
    "s3.retries",
    "s3.storage-class",
    "s3.unsafe-anonymous-auth",
    "sftp.args",
    "sftp.command",
    "sftp.connections",
    "sftp.layout",
    "swift.connections",
];

/// The environment and the options of one connection.
#[derive(Clone, Copy)]
pub(super) struct Settings<'a> {
    pub(super) options: &'a ConnectOptions,
    /// The part of an option's name before the dot.
    scheme: &'static str,
}

impl<'a> Settings<'a> {
    /// Takes the options for a scheme.
    ///
    /// # Errors
    /// Any option has a name that nobody knows, whatever its scheme.
    pub(super) fn new(options: &'a ConnectOptions, scheme: &'static str) -> Result<Self, Failure> {
        for name in options.extended.keys() {
            if !KNOWN.contains(&name.as_str()) {
                let scheme = name.split('.').next().unwrap_or_default();
                let known: Vec<&str> =
                    KNOWN.iter().copied().filter(|known| known.split('.').next() == Some(scheme)).collect();
                let known = if known.is_empty() { KNOWN.join(", ") } else { known.join(", ") };
                return Err(Failure::invalid(format!("-o {name} is not an option; known are {known}")));
            }
        }
        Ok(Self { options, scheme })
    }

    /// A variable that is set and not empty.
    pub(super) fn env(&self, name: &str) -> Option<&'a str> {
        self.options.environment.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The first of several names for the same.
    pub(super) fn env_any(&self, names: &[&str]) -> Option<&'a str> {
        names.iter().find_map(|name| self.env(name))
    }

    /// A variable without which nothing goes.
    pub(super) fn need(&self, names: &[&str]) -> Result<&'a str, Failure> {
        self.env_any(names).ok_or_else(|| {
            let names: Vec<String> = names.iter().map(|name| format!("${name}")).collect();
            Failure::invalid(format!("{} is not set", names.join(" or ")))
        })
    }

    /// An option of this scheme.
    pub(super) fn option(&self, name: &str) -> Option<&'a str> {
        self.options
            .extended
            .get(&format!("{}.{name}", self.scheme))
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// A number.
    pub(super) fn number(&self, name: &str) -> Result<Option<u32>, Failure> {
        let Some(text) = self.option(name) else { return Ok(None) };
        let number = text.parse().ok().filter(|number| *number > 0);
        number
            .map(Some)
            .ok_or_else(|| Failure::invalid(format!("-o {}.{name} is not a number above zero", self.scheme)))
    }

    /// A truth value.
    pub(super) fn flag(&self, name: &str) -> Result<bool, Failure> {
        match self.option(name) {
            None | Some("false" | "0" | "no") => Ok(false),
            Some("true" | "1" | "yes") => Ok(true),
            Some(_) => Err(Failure::invalid(format!("-o {}.{name} is neither true nor false", self.scheme))),
        }
    }

    /// How many requests run at once.
    pub(super) fn connections(&self, default: usize) -> Result<usize, Failure> {
        let set = self.number("connections")?;
        Ok(set.and_then(|number| usize::try_from(number).ok()).unwrap_or(default).min(1024))
    }

    /// Takes restic's default layout, whatever name it goes by.
    pub(super) fn default_layout(&self) -> Result<(), Failure> {
        match self.option("layout") {
            None | Some("auto" | "default") => Ok(()),
            Some(_) => Err(Failure::invalid(format!(
                "-o {}.layout: only the default layout is read; restic migrates others with `restic migrate s3_layout`",
                self.scheme
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(extended: &[(&str, &str)]) -> ConnectOptions {
        let extended = extended.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        ConnectOptions { extended, ..ConnectOptions::default() }
    }

    fn message(failure: Failure) -> String {
        failure.at("connect", "", "").message
    }

    #[test]
    fn test_unknown_options_are_refused_by_name() {
        let wrong = options(&[("s3.regoin", "x")]);
        let Err(failure) = Settings::new(&wrong, "local") else { panic!("taken") };
        let text = message(failure);
        assert!(text.contains("-o s3.regoin is not an option") && text.contains("s3.region"), "{text}");
        assert!(!text.contains("sftp."), "{text}");
        let wrong = options(&[("nonsense", "x")]);
        assert!(Settings::new(&wrong, "s3").is_err());
        assert!(Settings::new(&options(&[("sftp.command", "x")]), "s3").is_ok(), "another scheme's is let be");
    }

    #[test]
    fn test_values_are_checked_by_name() {
        let options = options(&[("s3.connections", "no"), ("s3.layout", "s3legacy"), ("s3.list-objects-v1", "maybe")]);
        let settings = Settings::new(&options, "s3").unwrap_or_else(|failure| panic!("{failure:?}"));
        assert!(message(settings.connections(5).unwrap_err()).contains("s3.connections"));
        assert!(message(settings.default_layout().unwrap_err()).contains("s3.layout"));
        assert!(message(settings.flag("list-objects-v1").unwrap_err()).contains("s3.list-objects-v1"));
        assert_eq!(message(settings.need(&["B2_ACCOUNT_ID"]).unwrap_err()), "$B2_ACCOUNT_ID is not set");
    }
}
