//! `matchtape dump`

use std::fmt::Write as _;
use std::io::{BufWriter, IsTerminal, Write, stdout};
use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::ProgressBar;
use matchtape_storage::{DumpItem, RealDisk, dump};

use super::super::error::CliError;
use super::super::inspect::ReportFormat;
use super::super::store::NO_STORE;
use super::progress_bar;

/// Bytes per line of hexadecimal digits.
const LINE_BYTES: usize = 32;

/// Show every structure of a file of a store: where it lies, what it says, whether it checks.
///
/// Reads only, and works on damaged files, on files put aside by salvage, and beside a running node. Offsets of parts (indented) count in
/// the payload of their block, which may be compressed.
#[derive(Args, Debug)]
#[command(after_help = "Exit codes: 0 everything shown checks, 1 something does not.

Examples:
  matchtape dump tape/manifest
  matchtape dump tape/wal/000000000001.wal | less
  matchtape dump --data tape/ --damaged            (every file, only what does not check)
  matchtape dump tape/tables/0000000000000001.events --raw --format json")]
pub(in super::super) struct DumpArgs {
    /// The files
    #[arg(value_name = "FILE", required_unless_present = "data")]
    files: Vec<PathBuf>,
    /// Every file of this directory
    #[arg(long, value_name = "DIR", conflicts_with = "files")]
    data: Option<PathBuf>,
    /// The bytes too
    #[arg(long)]
    raw: bool,
    /// Only what does not check
    #[arg(long)]
    damaged: bool,
    /// How it is written: text, or one JSON object per line [default: text on a terminal, else json]
    #[arg(long, value_enum)]
    format: Option<ReportFormat>,
}

/// How far it is, where nothing else is shown that says so.
struct Progress {
    bar: ProgressBar,
    /// Bytes of the files before this one.
    before: u64,
}

impl Progress {
    fn new(args: &DumpArgs, files: &[PathBuf]) -> Self {
        // On a terminal the structures themselves go by.
        let silent = !args.damaged && stdout().is_terminal();
        let bar = if silent { ProgressBar::hidden() } else { progress_bar() };
        // What is gone by now, or cannot be read, is told when it is its turn.
        let bytes = |file: &PathBuf| std::fs::metadata(file).map_or(0, |meta| meta.len());
        bar.set_prefix("reading");
        bar.set_length(files.iter().map(bytes).sum());
        Self { bar, before: 0 }
    }

    fn begin(&self, file: &Path) {
        self.bar.set_message(file.display().to_string());
        self.bar.set_position(self.before);
    }

    fn at(&self, item: &DumpItem) {
        // Others count in their block.
        if item.depth == 0 {
            self.bar.set_position(self.before + item.offset + item.bytes);
        }
    }

    fn end(&mut self, file: &Path) {
        self.before += std::fs::metadata(file).map_or(0, |meta| meta.len());
        self.bar.set_position(self.before);
    }
}

pub(in super::super) fn run(args: &DumpArgs) -> Result<(), CliError> {
    let files = match &args.data {
        Some(data) => files_of(data)?,
        None => args.files.clone(),
    };
    let format = ReportFormat::or_default(args.format);
    let mut out = BufWriter::new(stdout());
    let mut damaged = 0;
    let mut progress = Progress::new(args, &files);
    for file in &files {
        progress.begin(file);
        if format == ReportFormat::Text && !args.damaged {
            writeln!(out, "{}", file.display())?;
        }
        damaged += dump_file(args, format, file, &progress, &mut out)?;
        progress.end(file);
    }
    progress.bar.finish_and_clear();
    out.flush()?;
    match damaged {
        0 => Ok(()),
        _ => Err(CliError::failed(format_args!("{damaged} structures do not check"))),
    }
}

/// Manifest, tables and log, in this order, as far as they are there: the directory may be damaged.
fn files_of(data: &Path) -> Result<Vec<PathBuf>, CliError> {
    let failed =
        |path: &Path, error: &std::io::Error| CliError::failed(format_args!("{}: {error}", path.display()));
    std::fs::read_dir(data).map_err(|error| failed(data, &error))?;
    let mut files = vec![data.join("manifest")];
    files.retain(|manifest| manifest.exists());
    for name in ["tables", "wal"] {
        let directory = data.join(name);
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(&directory, &error)),
        };
        let mut found = Vec::new();
        for entry in entries {
            found.push(entry.map_err(|error| failed(&directory, &error))?.path());
        }
        found.sort();
        files.extend(found);
    }
    if files.is_empty() {
        return Err(CliError::with_advice(
            format_args!("{}: there is nothing of a store here", data.display()),
            NO_STORE,
        ));
    }
    Ok(files)
}

/// Returns how many structures do not check.
fn dump_file(
    args: &DumpArgs,
    format: ReportFormat,
    file: &Path,
    progress: &Progress,
    out: &mut impl Write,
) -> Result<u64, CliError> {
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = Path::new(
        file.file_name().ok_or_else(|| CliError::failed(format_args!("{} is no file", file.display())))?,
    );
    let disk = RealDisk::open(directory).map_err(CliError::failed)?;
    let (mut written, mut damaged) = (Ok(()), 0);
    let dumped = dump(&disk, name, args.raw, &mut |item| {
        damaged += u64::from(item.damage.is_some());
        progress.at(&item);
        if !args.damaged || item.damage.is_some() {
            written = write_item(format, args.damaged, file, &item, out);
        }
        written.is_ok()
    });
    written?;
    dumped.map_err(|error| CliError::failed(format_args!("in {}: {error}", directory.display())))?;
    Ok(damaged)
}

fn write_item(
    format: ReportFormat,
    named: bool,
    file: &Path,
    item: &DumpItem,
    out: &mut impl Write,
) -> Result<(), CliError> {
    match format {
        ReportFormat::Json => {
            let mut value = serde_json::to_value(item).map_err(std::io::Error::from)?;
            value["file"] = file.display().to_string().into();
            serde_json::to_writer(&mut *out, &value).map_err(std::io::Error::from)?;
            writeln!(out)?;
        }
        ReportFormat::Text => {
            if named {
                write!(out, "{}: ", file.display())?;
            }
            out.write_all(text(item).as_bytes())?;
        }
    }
    Ok(())
}

fn text(item: &DumpItem) -> String {
    let mut text = String::new();
    let indent = "  ".repeat(usize::from(item.depth) + 1);
    let _ = write!(text, "{indent}{:>10} +{:<8} {}", item.offset, item.bytes, item.what);
    for (name, value) in &item.fields {
        let _ = write!(text, "  {name} {value}");
    }
    if let Some(damage) = &item.damage {
        let _ = write!(text, "  DAMAGED: {damage}");
    }
    text.push('\n');
    for (line, bytes) in item.raw.chunks(LINE_BYTES).enumerate() {
        let _ = write!(text, "{indent}  {:>10}  ", item.offset + (line * LINE_BYTES) as u64);
        for byte in bytes {
            let _ = write!(text, "{byte:02x}");
        }
        text.push('\n');
    }
    text
}
