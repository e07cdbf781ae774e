//! Measures vmbr against what people use instead. Started by scripts/bench,
//! which gives it a private mount, network and process namespace; everything
//! that it makes ends with them.
//!
//! - [`lab`]: a host and its LAN, and the ways to migrate it
//! - [`loss`]: packets lost by a migration
//! - [`tcp`]: what a TCP stream sees of one
//! - [`duration`]: how long the commands take
//! - [`helper`]: from fork to descriptor; [`trace`]: system calls and memory
//! - [`ports`]: 1,000 ports made, listed and removed
//! - [`guard`]: what a guard costs
//! - [`macnat`]: what MAC-NAT costs; [`macnat_frames`]: for each frame
//! - [`report`]: samples, medians, tables

mod duration;
mod guard;
mod helper;
mod lab;
mod loss;
mod macnat;
mod macnat_frames;
mod ports;
mod report;
mod tcp;
mod trace;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use lab::{Outcome, Programs};
use report::Report;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Loss,
    Tcp,
    Time,
    Helper,
    Size,
    Ports,
    Status,
    Guard,
    Macnat,
    Frames,
}

/// Started by scripts/bench.
#[derive(Parser)]
struct Arguments {
    /// Samples of each figure
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Print one JSON document instead of tables
    #[arg(long)]
    json: bool,
    /// The vmbr that takes part
    #[arg(long, required_unless_present = "start_helpers")]
    vmbr: Option<PathBuf>,
    /// The directory of lab.sh and the other contestants' scripts
    #[arg(long, required_unless_present = "start_helpers")]
    scripts: Option<PathBuf>,
    /// NetworkManager takes part, too
    #[arg(long)]
    manager: bool,
    /// The unprivileged half of the part `helper`
    #[arg(long, hide = true)]
    start_helpers: bool,
    /// What to measure [default: all]
    parts: Vec<Part>,
}

fn main() -> ExitCode {
    match measure(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("bench: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: Arguments) -> Outcome<()> {
    if arguments.start_helpers {
        return helper::start_helpers();
    }
    refuse_a_real_network()?;
    let runs = usize::from(arguments.runs);
    let programs = Programs {
        vmbr: arguments.vmbr.unwrap_or_default(),
        scripts: arguments.scripts.unwrap_or_default(),
        manager: arguments.manager,
    };
    let parts = if arguments.parts.is_empty() {
        Part::value_variants()
    } else {
        &arguments.parts
    };
    let mut report = Report::default();
    for part in parts {
        match part {
            Part::Loss => loss::measure(&programs, runs, &mut report)?,
            Part::Tcp => tcp::measure(&programs, runs, &mut report)?,
            Part::Time => duration::measure(&programs, runs, &mut report)?,
            Part::Helper => helper::measure(&programs, runs, &mut report)?,
            Part::Size => helper::measure_size(&programs, runs, &mut report)?,
            Part::Ports => ports::measure(&programs, runs, &mut report)?,
            Part::Status => ports::measure_status(&programs, runs, &mut report)?,
            Part::Guard => guard::measure(&programs, runs, &mut report)?,
            Part::Macnat => macnat::measure(&programs, runs, &mut report)?,
            Part::Frames => macnat_frames::measure(&programs.frames(), runs, &mut report)?,
        }
    }
    if !programs.manager
        && parts
            .iter()
            .any(|part| matches!(part, Part::Loss | Part::Tcp | Part::Time))
    {
        report.remark("NetworkManager: not installed.");
    }
    if arguments.json {
        println!("{:#}", report.to_json(runs));
    } else {
        print!("{}", report.to_text());
    }
    Ok(())
}

/// The lab's namespaces are made and removed by name, and vmbr keeps records:
/// neither belongs on a real machine. scripts/bench's network is empty.
fn refuse_a_real_network() -> Outcome<()> {
    let devices = fs::read_to_string("/proc/self/net/dev")?;
    let names = devices.lines().skip(2).filter_map(|line| line.split(':').next());
    match names.map(str::trim).find(|name| *name != "lo") {
        Some(name) => Err(format!("this network namespace has {name}: start it by scripts/bench").into()),
        None => Ok(()),
    }
}
