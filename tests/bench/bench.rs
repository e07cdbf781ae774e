//! Measures vmbr against what people use instead. Started by scripts/bench,
//! which gives it a private mount, network and process namespace; everything
//! that it makes ends with them.
//!
//! - [`lab`]: a host and its LAN, and the ways to migrate it
//! - [`loss`]: packets lost by a migration; [`tcp`]: what a TCP stream sees
//! - [`helper`]: from fork to descriptor; [`trace`]: system calls and memory
//! - [`ports`]: 1,000 ports made, listed and removed; [`duration`]: time of up and down
//! - [`report`]: samples, medians, tables

mod lab;
mod loss;
mod report;
mod tcp;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use lab::{Outcome, Programs};
use report::Report;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Loss,
    Tcp,
}

#[derive(Parser)]
struct Arguments {
    /// Samples of each figure
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    #[arg(long)]
    json: bool,
    #[arg(long)]
    vmbr: PathBuf,
    #[arg(long)]
    scripts: PathBuf,
    #[arg(long)]
    manager: bool,
    parts: Vec<Part>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match measure(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("bench: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> Outcome<()> {
    let runs = usize::from(arguments.runs);
    let programs = Programs {
        vmbr: arguments.vmbr.clone(),
        scripts: arguments.scripts.clone(),
        manager: arguments.manager,
    };
    let mut report = Report::default();
    for part in &arguments.parts {
        match part {
            Part::Loss => loss::measure(&programs, runs, &mut report)?,
            Part::Tcp => tcp::measure(&programs, runs, &mut report)?,
        }
    }
    if arguments.json {
        println!("{:#}", report.to_json(runs));
    } else {
        print!("{}", report.to_text());
    }
    Ok(())
}
