//! Writes what is made from the table of the controller's rights: the chart's rules, and the table in `docs/security.md`.

use std::path::Path;
use std::process::ExitCode;

use stash_controller::rbac::Generated;

fn main() -> ExitCode {
    let Some(root) = std::env::args_os().nth(1) else {
        eprintln!("usage: rbacgen ROOT-OF-THE-REPOSITORY");
        return ExitCode::from(2);
    };
    match write(Path::new(&root)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rbacgen: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write(root: &Path) -> Result<(), String> {
    for generated in Generated::ALL {
        let path = root.join(generated.path());
        let now = std::fs::read_to_string(&path).unwrap_or_default();
        let content =
            generated.content(&now).ok_or_else(|| format!("{} has no place for the table", path.display()))?;
        std::fs::write(&path, content).map_err(|error| format!("failed to write {}: {error}", path.display()))?;
    }
    Ok(())
}
