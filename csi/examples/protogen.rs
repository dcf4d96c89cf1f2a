//! Writes the code of the messages in `csi/proto` beside them.

#[path = "../tests/suite/generate.rs"]
mod generate;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    generate::write(&generate::folder())?;
    println!("{} in {}", generate::FILES.join(" and "), generate::folder().display());
    Ok(())
}
