//! Writes the definitions of all kinds as YAML, one file each.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(dir) = std::env::args_os().nth(1) else {
        eprintln!("usage: crdgen DIRECTORY");
        return ExitCode::from(2);
    };
    match write(Path::new(&dir)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("crdgen: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write(dir: &Path) -> Result<(), Box<dyn std::error::Error>> {
    std::fs::create_dir_all(dir)?;
    for definition in stash_crds::definitions() {
        std::fs::write(dir.join(stash_crds::file_name(&definition)), stash_crds::yaml(&definition)?)?;
    }
    Ok(())
}
