//! Images without a container engine: from a folder of files to an archive.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{ChildStdin, Command};

use serde_json::Value;

/// An image of one layer.
#[derive(Debug)]
pub struct Image {
    name: String,
    config: Value,
    root: tempfile::TempDir,
}

impl Image {
    /// An image without files. The name is as `localhost/x:1`; `config` is what Docker calls so, as
    /// `{"Entrypoint": ["/x"], "User": "65532"}`.
    pub fn new(name: &str, config: Value) -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { name: name.to_owned(), config, root }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Adds a file of this machine, as it is.
    #[must_use]
    pub fn file(self, path: &str, source: &Path) -> Self {
        let inside = self.root.path().join(path.trim_start_matches('/'));
        std::fs::create_dir_all(inside.parent().expect("it is below the root")).unwrap();
        std::fs::copy(source, &inside).unwrap_or_else(|error| panic!("copy {}: {error}", source.display()));
        self
    }

    pub(super) fn write(&self, output: ChildStdin) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster/image.sh");
        let mut command = Command::new(script);
        command.arg(&self.name).arg(self.config.to_string()).arg(self.root.path()).stdout(output);
        assert!(command.status().unwrap().success(), "{command:?}");
    }
}
