//! Writes the definitions of all kinds as YAML, one file each, to each of the directories.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let folders: Vec<_> = std::env::args_os().skip(1).collect();
    if folders.is_empty() {
        eprintln!("usage: crdgen DIRECTORY...");
        return ExitCode::from(2);
    }
    match folders.iter().try_for_each(|folder| write(Path::new(folder))) {
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
