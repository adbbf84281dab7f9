//! Writes the tables of compose keys into the documentation.

use std::{fs, io};

fn main() -> io::Result<()> {
    for (name, text) in tests::keys::documents()? {
        fs::write(&name, text)?;
    }
    Ok(())
}
