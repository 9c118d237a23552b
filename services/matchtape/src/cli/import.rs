//! `matchtape import`

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use clap::{ArgGroup, Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use matchtape_client::as_of;
use matchtape_client::time::rfc3339;
use matchtape_node::{Node, NodeError, NodeOptions, PublishError};
use matchtape_schemas::Sequence;

use super::error::CliError;
use super::inspect::ReportFormat;
use super::store;
use crate::import::dbn::{self, DbnSource};
use crate::import::sse::{self, SseSource};
use crate::import::{
    Directory, ImportError, Input, LoadError, Loaded, NodeTarget, OnError, Overlap, Progress, ServerTarget,
    Source, SourceId, Tally, Target, load,
};
use crate::server::{Server, ServerError};

/// Put an exchange's files onto a tape: durably, each record once.
///
/// Run it again after a crash or an interruption, or when the files have grown at their end (in the venue's order, whatever
/// that of the lines is): it goes on where it ended, and a second run over the same files adds nothing. Which records are there is known by a source's content, not by its file names.
#[derive(Args, Debug)]
#[command(after_help = "Formats:\n  \
    sse-l2   Shanghai level-2 orders and trades, CSV; all files given are one source, merged by (day, ChannelNo, ApplSeqNum);\n           \
    a record that is there twice is counted and left out, two different ones with one number are refused;\n           \
    its orders are good for the day: where a later day begins, books are cleared and the day before is closed\n  \
    dbn-mbo  Databento DBN, schema mbo, versions 1 to 3; each file is a source of its own\n\
    Files may be compressed with gzip or zstd; which, is told by their content.\n\n\
    Examples:\n  \
    matchtape import --format sse-l2 --data tape/ orders.csv.gz trades.csv.gz\n  \
    matchtape import --format dbn-mbo --data tape/ --on-error skip esh4.mbo.dbn.zst\n  \
    matchtape import --format sse-l2 --data tape/ --instrument 600761.SH orders.csv trades.csv\n  \
    matchtape import --format sse-l2 --server http://127.0.0.1:7474 orders.csv.gz trades.csv.gz")]
#[command(group(ArgGroup::new("tape").args(["data", "server"])))]
pub(super) struct ImportArgs {
    /// What the files are
    #[arg(long, value_enum)]
    format: FileFormat,
    /// The tape's directory, made if missing
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Instead: the gateway of a running node, as http://127.0.0.1:7474; a lost connection is tried again for a minute [default:
    /// MATCHTAPE_SERVER, if set]
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// Only this instrument: a symbol, or in dbn-mbo its number; may be given several times
    #[arg(long, value_name = "SYMBOL")]
    instrument: Vec<String>,
    /// What to do about a malformed line or record
    #[arg(long, value_enum, default_value = "stop")]
    on_error: OnErrorArg,
    /// Print {"durable":SEQUENCE} as a JSON line each time more is known to survive a power loss
    #[arg(long)]
    acknowledge: bool,
    /// Size of a file of the log; each is made and zeroed ahead, and there are at least two
    #[arg(long, value_name = "MIB", default_value_t = 256, conflicts_with = "server", value_parser = clap::value_parser!(u64).range(1..=4096))]
    segment_mib: u64,
    /// How the report of each source is written: text on the standard error, or json, an object on a line of the standard output
    #[arg(long, value_enum, default_value_t = ReportFormat::Text)]
    report: ReportFormat,
    /// The source's number, 1 to 2147483647, instead of one that follows from its content
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=0x7FFF_FFFF))]
    producer: Option<u32>,
    /// Import although the tape has events of the same instrument and time from another source. If these are the same records,
    /// the tape has them twice then
    #[arg(long)]
    allow_overlap: bool,
    /// The files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FileFormat {
    SseL2,
    DbnMbo,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OnErrorArg {
    /// End there; what came before is imported
    Stop,
    /// Leave it out, count it, list the first ones
    Skip,
}

/// How often the bar is brought up to date: in groups, not in time, so that nothing here reads a clock per group.
const GROUPS_PER_UPDATE: u64 = 1024;

pub(super) fn run(args: &ImportArgs) -> Result<(), CliError> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // The second signal ends the process at once, as if there were no handler.
        signal_hook::flag::register_conditional_default(signal, Arc::clone(&stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)))
            .map_err(|error| CliError::failed(format_args!("installing signal handlers: {error}")))?;
    }
    if args.producer.is_some() && args.format == FileFormat::DbnMbo && args.files.len() > 1 {
        return Err(CliError::Usage(
            "--producer goes with one source; dbn-mbo files are one each".to_owned(),
        ));
    }

    // Files that cannot be read, or are of another format, are found before the tape is opened (and made).
    let mut inputs = Vec::new();
    for file in &args.files {
        inputs.push(open(file, args.format)?);
    }
    match (&args.data, &args.server) {
        (Some(data), _) => {
            let mut options = NodeOptions { name: "import".to_owned(), ..NodeOptions::default() };
            options.store.wal.segment_bytes = args.segment_mib << 20;
            options.store.cold = super::cold::of(data)?;
            let node = Node::open(data, options, matchtape_market::projections())
                .map_err(|error| node_error(data, &error))?;
            let outcome = import_all(args, &Tape::Node(&node), inputs, &stop);
            let closed = node.close().map_err(|error| node_error(data, &error));
            outcome.and(closed)
        }
        (None, address) => {
            let server = super::query::server(address.as_deref())?;
            // A wrong address is not tried for a minute.
            server.watermarks()?;
            import_all(args, &Tape::Server(&server), inputs, &stop)
        }
    }
}

/// A file from its beginning. What can be read only once is looked at when it is imported.
fn open(file: &Path, format: FileFormat) -> Result<Input, CliError> {
    let open = || Input::open(file).map_err(|error| import_error(&error.into()));
    if std::fs::metadata(file).is_ok_and(|metadata| metadata.is_file()) {
        let (name, checked) = match format {
            FileFormat::SseL2 => (sse::FORMAT, sse::check(open()?)),
            FileFormat::DbnMbo => (dbn::FORMAT, dbn::check(open()?)),
        };
        checked.map_err(|error| match error {
            ImportError::Malformed(_) => CliError::with_advice(
                &error,
                format_args!("nothing was imported; is it of the format {name}?"),
            ),
            error => import_error(&error),
        })?;
    }
    open()
}

/// Where the events go.
enum Tape<'a> {
    Node(&'a Node),
    Server(&'a Server),
}

impl Tape<'_> {
    /// The instruments there. What earlier sources put onto the tape is visible: each was waited for.
    fn known(&self, stop: &AtomicBool) -> Result<Directory, CliError> {
        match self {
            Self::Node(node) => {
                let reader = node.reader();
                Ok(Directory::of(&as_of::instruments(&reader, reader.visible())?))
            }
            Self::Server(server) => {
                let asked =
                    server.persistently(stop, &mut |text| eprintln!("{text}"), Server::instruments)?;
                let mut known = Directory::new();
                for (id, definition) in &asked.answer {
                    known.insert(*id, definition);
                }
                Ok(known)
            }
        }
    }

    fn target<'a>(&'a self, stop: &'a AtomicBool, bar: &ProgressBar) -> Box<dyn Target + 'a> {
        let bar = bar.clone();
        let notice = move |text: &str| bar.suspend(|| eprintln!("{text}"));
        match self {
            Self::Node(node) => Box::new(NodeTarget::new(node, stop, notice)),
            Self::Server(server) => Box::new(ServerTarget::new(server, stop, notice)),
        }
    }
}

fn import_all(
    args: &ImportArgs,
    tape: &Tape<'_>,
    inputs: Vec<Input>,
    stop: &AtomicBool,
) -> Result<(), CliError> {
    let groups: Vec<Vec<Input>> = match args.format {
        FileFormat::SseL2 => vec![inputs],
        FileFormat::DbnMbo => inputs.into_iter().map(|input| vec![input]).collect(),
    };
    for files in groups {
        import_one(args, tape, files, stop)?;
    }
    Ok(())
}

fn import_one(
    args: &ImportArgs,
    tape: &Tape<'_>,
    files: Vec<Input>,
    stop: &AtomicBool,
) -> Result<(), CliError> {
    let paths: Vec<PathBuf> = files.iter().map(|input| input.file().to_owned()).collect();
    let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    let names = &names.join(", ");
    let known = tape.known(stop)?;
    let on_error = match args.on_error {
        OnErrorArg::Stop => OnError::Stop,
        OnErrorArg::Skip => OnError::Skip,
    };
    let id = args.producer.map(SourceId::of_number);
    let begun = Instant::now();
    let bar = bar();
    let mut source: Box<dyn Source> = match args.format {
        FileFormat::SseL2 => {
            let options = sse::Options { instruments: args.instrument.clone(), on_error, id };
            bar.set_message("reading");
            let opened =
                SseSource::open(files, known.clone(), &options, &mut |progress| show(&bar, progress));
            Box::new(opened.map_err(|error| import_error(&error))?)
        }
        FileFormat::DbnMbo => {
            let options = dbn::Options { instruments: args.instrument.clone(), on_error, id };
            let file = files.into_iter().next().expect("each group has its file");
            Box::new(DbnSource::open(file, known.clone(), &options).map_err(|error| import_error(&error))?)
        }
    };
    bar.set_message("publishing");
    let mut groups = 0u64;
    let mut acknowledged = Acknowledged { wanted: args.acknowledge, through: Sequence::ZERO, lost: None };
    let mut target = tape.target(stop, &bar);
    let overlap = if args.allow_overlap { Overlap::Allow } else { Overlap::Refuse };
    let outcome = load(&mut *target, &mut *source, &known, overlap, stop, &mut |source, loaded, target| {
        groups += 1;
        if groups.is_multiple_of(GROUPS_PER_UPDATE) {
            show(&bar, source.progress());
            bar.set_prefix(rate(loaded.published, begun.elapsed()));
            acknowledged.print(target.visible());
        }
    });
    bar.finish_and_clear();
    acknowledged.print(target.visible());
    let tally = source.tally();
    print_problems(tally);
    let loaded = outcome.map_err(load_error)?;
    match args.report {
        ReportFormat::Text => print_summary(names, &loaded, tally, begun.elapsed()),
        ReportFormat::Json => print_report(&paths, &loaded, tally, begun.elapsed())?,
    }
    if loaded.interrupted {
        return Err(CliError::Interrupted(
            "interrupted: what is imported is durable; the same command goes on from here".to_owned(),
        ));
    }
    if !args.instrument.is_empty() && tally.filtered == tally.records {
        return Err(CliError::with_advice(
            format_args!("no record of {} in {names}", args.instrument.join(", ")),
            "without --instrument every instrument is imported; check the symbol",
        ));
    }
    match acknowledged.lost {
        Some(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(CliError::failed(format_args!(
            "what was durable could not be written to the output any more: {error}; what is imported is durable"
        ))),
        Some(_) | None => Ok(()),
    }
}

/// What was said to be durable.
struct Acknowledged {
    wanted: bool,
    through: Sequence,
    /// Why it could not be said any more.
    lost: Option<std::io::Error>,
}

impl Acknowledged {
    /// Visible is durable and ends a group: recovery drops a group whose end is missing.
    fn print(&mut self, durable: Sequence) {
        if self.wanted && self.lost.is_none() && durable > self.through {
            self.through = durable;
            // The import goes on without: what is said at its end holds for all of it.
            self.lost = writeln!(std::io::stdout(), "{{\"durable\":{durable}}}").err();
        }
    }
}

fn bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(0);
    let style = "{msg:>10} [{bar:40}] {percent:>3}%  {prefix}  {elapsed}, {eta} left";
    bar.set_style(ProgressStyle::with_template(style).expect("the template is right").progress_chars("=> "));
    bar
}

fn show(bar: &ProgressBar, progress: Progress) {
    bar.set_length(progress.total);
    bar.set_position(progress.done);
}

fn rate(events: u64, time: Duration) -> String {
    format!("{:.0} events/s", events as f64 / time.as_secs_f64().max(1e-9))
}

fn print_problems(tally: &Tally) {
    for problem in &tally.problems {
        eprintln!("skipped: {problem}");
    }
    let unlisted = tally.malformed - tally.problems.len() as u64;
    if unlisted > 0 {
        eprintln!("skipped: {unlisted} more");
    }
}

fn print_summary(names: &str, loaded: &Loaded, tally: &Tally, time: Duration) {
    eprintln!(
        "{names}: {} records read, {} events added, {} there already, {:.2} s, {}",
        tally.records,
        loaded.published,
        loaded.already,
        time.as_secs_f64(),
        rate(loaded.published, time)
    );
    let notes = [
        (tally.repeated, "records more that are there twice, left out"),
        (tally.filtered, "records of other instruments left out"),
        (tally.without_event, "records that say nothing a tape holds"),
        (tally.malformed, "malformed ones skipped"),
        (tally.back_in_time, "records older than one before them (kept in the venue's order)"),
        (tally.groups_cut, "groups that did not end where the venue ends them"),
    ];
    for (count, what) in notes.into_iter().filter(|(count, _)| *count > 0) {
        eprintln!("  {count} {what}");
    }
    if let Some(time) = loaded.behind {
        eprintln!(
            "  the tape's time was past {} already: events before it are flagged late, and readers of windows are given them in \
             the one that was open",
            rfc3339(time.get())
        );
    }
    if loaded.published > 0 {
        eprintln!("  durable through sequence {}", loaded.last);
    }
}

fn print_report(files: &[PathBuf], loaded: &Loaded, tally: &Tally, time: Duration) -> Result<(), CliError> {
    let report = serde_json::json!({
        "files": files,
        "records": tally.records,
        "added": loaded.published,
        "already": loaded.already,
        "durable": (loaded.published > 0).then_some(loaded.last.get()),
        "interrupted": loaded.interrupted,
        "repeated": tally.repeated,
        "filtered": tally.filtered,
        "without_event": tally.without_event,
        "malformed": tally.malformed,
        "back_in_time": tally.back_in_time,
        "groups_cut": tally.groups_cut,
        "late_before": loaded.behind.map(|time| time.get().to_string()),
        "seconds": time.as_secs_f64(),
    });
    Ok(writeln!(std::io::stdout(), "{report}")?)
}

fn import_error(error: &ImportError) -> CliError {
    match error {
        ImportError::Malformed(_) => CliError::with_advice(
            error,
            "what came before it is imported; mend it and run the command again, or leave such out with --on-error skip",
        ),
        ImportError::Input(_) => {
            CliError::with_advice(error, "check the file; what was imported before stays")
        }
        ImportError::Repeated(_) => CliError::with_advice(
            error,
            "nothing of it is imported; a number is one record's, in the orders and trades of a channel together: are these files of the \
             same day, and of one feed?",
        ),
        ImportError::Files(_) => CliError::failed(error),
    }
}

fn load_error(error: LoadError) -> CliError {
    match error {
        LoadError::Import(error) => import_error(&error),
        LoadError::Node(error) => CliError::failed(error),
        LoadError::Server(error @ (ServerError::Connection { .. } | ServerError::Behind { .. })) => {
            CliError::with_advice(
                error,
                "whether the last batch is there is unknown; run the command again when the server answers: it goes on \
                 after what is there",
            )
        }
        LoadError::Server(error) => error.into(),
        LoadError::LeftOutBefore { .. } => CliError::with_advice(
            error,
            "import it into another --data directory; or, if it was left out, under another --producer with --instrument, where its \
             order on the tape does not matter",
        ),
        LoadError::Renumbered { .. } => CliError::with_advice(
            error,
            "nothing was added; import the whole files into another --data directory",
        ),
        LoadError::OtherSource { .. } => CliError::with_advice(
            error,
            "leave --producer out: then the number follows from the source's content; or give one that is free",
        ),
        LoadError::Overlaps { .. } => CliError::with_advice(
            error,
            "files that belong together are one source and are imported together; into another --data directory they can be \
             imported anew; if these are other records, say --allow-overlap",
        ),
        LoadError::Read(error) => CliError::failed(error),
        LoadError::Publish { reason: PublishError::EventTimeAhead { .. }, .. } => CliError::with_advice(
            error,
            "either the record or this machine's clock is wrong; what came before it is imported",
        ),
        LoadError::Publish { reason: PublishError::GroupOrder { .. }, .. } => CliError::with_advice(
            error,
            "the source's groups are not those of the import before: was it made with another --instrument?",
        ),
        LoadError::Publish { .. } | LoadError::Wait(_) => {
            CliError::with_advice(error, "run the command again: it goes on after what is on disk")
        }
    }
}

pub(super) fn node_error(data: &Path, error: &NodeError) -> CliError {
    match error {
        NodeError::Open(open) => store::open_error(data, open),
        other => CliError::failed(format_args!("{}: {other}", data.display())),
    }
}
