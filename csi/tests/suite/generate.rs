//! Makes Rust of the messages in `csi/proto`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// What is made, a file a package.
pub(crate) const FILES: [&str; 2] = ["csi.v1.rs", "pluginregistration.rs"];

/// The services that are served; others of CSI have messages and no code here.
const SERVICES: [&str; 4] = ["Controller", "Identity", "Node", "Registration"];

/// Where messages and code lie.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("proto")
}

/// Writes the code to `folder`.
pub(crate) fn write(folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let mut files = protox::compile(["csi.proto", "pluginregistration.proto"], [self::folder()])?;
    let mut secret = Vec::new();
    for file in &mut files.file {
        // Comments are in the messages' own files; here they would be taken for documentation of ours.
        file.source_code_info = None;
        file.service.retain(|service| SERVICES.contains(&service.name()));
        for message in &file.message_type {
            if message.field.iter().any(|field| field.name() == "secrets") {
                secret.push((file.package().to_owned(), message.name().to_owned()));
            }
        }
    }
    tonic_prost_build::configure()
        .build_transport(false)
        .generate_default_stubs(true)
        .btree_map(".")
        .skip_debug(secret.iter().map(|(package, message)| format!(".{package}.{message}")))
        .emit_rerun_if_changed(false)
        .out_dir(folder)
        .compile_fds(files)?;
    let path = folder.join("csi.v1.rs");
    let mut text = std::fs::read_to_string(&path)?;
    for (_, message) in secret {
        write!(
            text,
            "// Secrets are not printed.\nimpl ::core::fmt::Debug for {message} {{\n    \
             fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {{\n        \
             f.debug_struct(\"{message}\").finish_non_exhaustive()\n    }}\n}}\n"
        )?;
    }
    Ok(std::fs::write(path, text)?)
}
