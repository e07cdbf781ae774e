//! Completions and manual pages, made from the grammar.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use clap::CommandFactory;

use super::args::Args;
use super::outcome::Error;

/// The page of acl.conf, which no grammar describes.
const ACL_PAGE: (&str, &str) = ("vmbr-acl.conf.5", include_str!("vmbr-acl.conf.5"));

/// Prints completions for a shell.
pub fn completions(shell: clap_complete::Shell) -> Result<(), Error> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "vmbr", &mut text);
    written(io::stdout().write_all(&text), "standard output")
}

/// Prints the manual page, or writes all of them into a directory.
pub fn man(dir: Option<&Path>) -> Result<(), Error> {
    let command = Args::command();
    match dir {
        Some(dir) => written(
            fs::create_dir_all(dir)
                .and_then(|()| clap_mangen::generate_to(command, dir))
                .and_then(|()| fs::write(dir.join(ACL_PAGE.0), ACL_PAGE.1)),
            &dir.display().to_string(),
        ),
        None => {
            let mut text = Vec::new();
            let rendered = clap_mangen::Man::new(command).render(&mut text);
            written(
                rendered.and_then(|()| io::stdout().write_all(&text)),
                "standard output",
            )
        }
    }
}

fn written(result: io::Result<()>, to: &str) -> Result<(), Error> {
    result.map_err(|error| Error::Failed {
        message: format!("cannot write to {to}: {error}"),
        remedy: "name a directory that can be written".into(),
    })
}
