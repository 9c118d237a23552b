//! The command line: one subcommand per file, and how errors and interruptions end the process.

/// As the standard library's, which it hides from the modules below, but for a standard error that takes nothing (a pipe that nobody
/// reads any more, a full disk): that is no reason to panic, least of all for a node.
macro_rules! eprintln {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}

mod bench_disk;
mod cold;
mod compact;
mod config;
mod consumer;
mod error;
mod export;
mod follow;
mod import;
mod ingress;
mod inspect;
mod interrupt;
mod notify;
mod open_files;
mod position;
mod proof;
mod query;
mod retention;
mod seal;
mod serve;
mod shared_memory;
mod signing;
mod state;
mod store;
mod subscribe;
mod upkeep;
mod verify;
mod watch;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use matchtape_client::Format;

pub use self::error::CliError;

/// The tape of a matching engine: recorded durably, played live, rewound exactly, never forked.
#[derive(Parser, Debug)]
#[command(
    name = "matchtape",
    version,
    max_term_width = 110,
    after_help = "Exit codes: 0 done, 1 failed (the message says what, where and what to do), 2 wrong usage, \
                  130 ended by Ctrl-C or SIGTERM before it was done (what was done is durable); `serve` and `demo`, which run until \
                  then, end with 0.\n\n\
                  Examples:\n  \
                  matchtape import --format sse-l2 --data tape/ orders.csv.gz trades.csv.gz\n  \
                  matchtape query book --data tape/ --instrument 600761.SH --at 2023-07-11T10:00:00+08:00\n  \
                  matchtape verify --data tape/"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Demo(serve::DemoArgs),
    Serve(serve::ServeArgs),
    Import(import::ImportArgs),
    Query(query::QueryArgs),
    State(state::StateArgs),
    Tail(follow::TailArgs),
    Subscribe(subscribe::SubscribeArgs),
    Consumer(consumer::ConsumerArgs),
    Replay(follow::ReplayArgs),
    Inspect(inspect::InspectArgs),
    Verify(verify::VerifyArgs),
    Watch(watch::WatchArgs),
    Compact(compact::CompactArgs),
    Export(export::ExportArgs),
    Seal(seal::SealArgs),
    Proof(proof::ProofArgs),
    Cold(cold::ColdArgs),
    Backup(upkeep::backup::BackupArgs),
    Restore(upkeep::restore::RestoreArgs),
    Snapshot(upkeep::snapshot::SnapshotArgs),
    Retain(upkeep::retain::RetainArgs),
    Hold(upkeep::hold::HoldArgs),
    Salvage(upkeep::salvage::SalvageArgs),
    Dump(upkeep::dump::DumpArgs),
    BenchDisk(bench_disk::BenchDiskArgs),
    Config(config::ConfigArgs),
}

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FormatArg {
    /// Aligned columns, the main ones; times as RFC 3339.
    Table,
    /// One JSON object per line.
    #[value(alias = "json")]
    Ndjson,
    /// Comma-separated, with a heading, every column.
    Csv,
}

impl FormatArg {
    /// What was asked for; else a table on a terminal and JSON lines anywhere else.
    fn or_default(format: Option<Self>) -> Format {
        match format {
            Some(Self::Table) => Format::Table,
            Some(Self::Ndjson) => Format::Ndjson,
            Some(Self::Csv) => Format::Csv,
            None if std::io::stdout().is_terminal() => Format::Table,
            None => Format::Ndjson,
        }
    }
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    // Where it is not glibc's, the allocator does so by itself, or not.
    matchtape_storage::return_large_memory();
    open_files::raise();
    let outcome = match Cli::parse().command {
        Command::Demo(args) => serve::demo(&args),
        Command::Serve(args) => serve::serve(&args),
        Command::Tail(args) => follow::tail(&args),
        Command::Subscribe(args) => subscribe::run(&args),
        Command::Consumer(args) => consumer::run(&args),
        Command::Replay(args) => follow::replay(&args),
        Command::Config(args) => config::run(&args),
        Command::Import(args) => import::run(&args),
        Command::Query(args) => query::run(&args),
        Command::State(args) => state::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Watch(args) => watch::run(&args),
        Command::Compact(args) => compact::run(&args),
        Command::Backup(args) => upkeep::backup::run(&args),
        Command::Restore(args) => upkeep::restore::run(&args),
        Command::Snapshot(args) => upkeep::snapshot::run(&args),
        Command::Retain(args) => upkeep::retain::run(&args),
        Command::Hold(args) => upkeep::hold::run(&args),
        Command::Salvage(args) => upkeep::salvage::run(&args),
        Command::Dump(args) => upkeep::dump::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Seal(args) => seal::run(&args),
        Command::Proof(args) => proof::run(&args),
        Command::Cold(args) => cold::run(&args),
        Command::BenchDisk(args) => bench_disk::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}
