//! `matchtape proof`: that exported events are complete and unaltered, for someone who holds nothing but published roots.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, IsTerminal, Read, Seek, Write, stdout};
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use matchtape_client::{EventRow, Output};
use matchtape_schemas::Sequence;
use matchtape_storage::wal::{SegmentNumber, SegmentRoot};
use matchtape_storage::{PROOF_BYTES_MAX, Proof, ProofFileError, ProveError, SegmentFacts};
use serde::{Deserialize, Serialize};

use super::error::CliError;
use super::inspect::ReportFormat;
use super::signing::{self, SignKey};
use super::{FormatArg, store};

/// Prove that exported events are complete and unaltered.
///
/// Every sealed segment of the log has a root: one hash over its frames, equal on every replica. Publish the roots where they
/// cannot be changed later (`proof roots`). From then on, any run of events can be handed out with a proof (`proof make`), and
/// whoever has the frames, the proof and the roots can check that nothing was left out, added, altered or moved, without the
/// store (`proof check`).
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  matchtape seal        --data tape/                      (the open segment too)
  matchtape proof roots --data tape/ > roots-2026-07-28.jsonl
  matchtape proof make  --data tape/ --from 1200000 --to 1300000 --out case-17.proof      (and case-17.frames)
  matchtape proof check case-17.proof --roots roots-2026-07-28.jsonl
  matchtape proof check case-17.proof --roots roots-2026-07-28.jsonl --events csv > case-17.csv

  matchtape proof roots --data tape/ --out roots.jsonl --sign key.pem     (and roots.jsonl.sig)
  matchtape proof check case-17.proof --roots roots.jsonl --signed-by public.pem")]
pub(super) struct ProofArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    Roots(RootsArgs),
    Make(MakeArgs),
    Check(CheckArgs),
}

/// The root of every sealed segment since the tape began: what to publish. Read-only, beside a running writer.
///
/// With --sign, whoever gets the roots can tell that they are yours, by whatever way they came. The signature is Ed25519 over the file as it
/// is, 64 bytes in a file beside it, as `openssl pkeyutl -sign -rawin` makes it and `openssl pkeyutl -verify -rawin` checks it.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  matchtape proof roots --data tape/ > roots.jsonl

  openssl genpkey -algorithm ed25519 -out key.pem && chmod 600 key.pem
  openssl pkey -in key.pem -pubout -out public.pem                                          (what to hand out, once)
  matchtape proof roots --data tape/ --out roots.jsonl --sign key.pem                       (and roots.jsonl.sig)
  openssl pkeyutl -verify -rawin -pubin -inkey public.pem -in roots.jsonl -sigfile roots.jsonl.sig")]
struct RootsArgs {
    /// The tape's directory
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Write them to this new file, as JSON
    #[arg(long, value_name = "FILE", conflicts_with = "format")]
    out: Option<PathBuf>,
    /// Sign that file with the private key in this one, which nobody but you may read; the signature is the new file FILE.sig
    #[arg(long, value_name = "KEY", requires = "out")]
    sign: Option<PathBuf>,
    /// How they are written: text, or one JSON object per line [default: text on a terminal, else json]
    #[arg(long, value_enum)]
    format: Option<ReportFormat>,
}

/// Export a run of frames and its proof. Read-only, beside a running writer.
///
/// Frames hold several events each: the run begins with the frame that holds --from and ends with the one that holds --to. They are
/// written byte for byte as they are on the tape, private fields included; `proof check --events` shows them.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    matchtape proof make --data tape/ --from 1200000 --to 1300000 --out case-17.proof\n  \
    matchtape proof make --data tape/ --out all.proof --frames all.frames      (all that is sealed)")]
struct MakeArgs {
    /// The tape's directory
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// From this sequence on [default: the first that can be proven: where the oldest segment that is kept whole begins]
    #[arg(long, value_name = "SEQUENCE")]
    from: Option<u64>,
    /// To this sequence, inclusive [default: the last in a sealed segment]
    #[arg(long, value_name = "SEQUENCE")]
    to: Option<u64>,
    /// The proof: a new file
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The frames: a new file [default: the proof's name with .frames]
    #[arg(long, value_name = "FILE")]
    frames: Option<PathBuf>,
    /// How the report is written [default: text on a terminal, else json]
    #[arg(long, value_enum)]
    format: Option<ReportFormat>,
}

/// Check exported frames with their proof against roots that you trust. Needs no store.
#[derive(Args, Debug)]
#[command(
    group(ArgGroup::new("trusted").required(true).args(["root", "roots", "data"])),
    after_help = "Exit codes: 0 proven, 1 not.\n\nExamples:\n  \
    matchtape proof check case-17.proof --roots roots.jsonl\n  \
    matchtape proof check case-17.proof --roots roots.jsonl --signed-by public.pem\n  \
    matchtape proof check case-17.proof --frames case-17.frames --root 5f0c...e1\n  \
    matchtape proof check case-17.proof --data tape/ --events ndjson"
)]
struct CheckArgs {
    /// The proof
    #[arg(value_name = "FILE")]
    proof: PathBuf,
    /// The exported frames [default: the proof's name with .frames]
    #[arg(long, value_name = "FILE")]
    frames: Option<PathBuf>,
    /// A root, 64 hexadecimal digits: one per segment that the proof is about, in the order of the tape
    #[arg(long, value_name = "HEX")]
    root: Vec<SegmentRoot>,
    /// Roots as `proof roots` wrote them, one JSON object per line
    #[arg(long, value_name = "FILE")]
    roots: Option<PathBuf>,
    /// Trust these roots only if they were signed with the private half of the key in this file
    #[arg(long, value_name = "PUBLIC-KEY", requires = "roots")]
    signed_by: Option<PathBuf>,
    /// Their signature [default: the name of the roots with .sig]
    #[arg(long, value_name = "FILE", requires = "signed_by")]
    signature: Option<PathBuf>,
    /// The roots that a tape's directory has
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Once proven, write the events to the standard output; the report goes to the standard error
    #[arg(long, value_name = "FORMAT", value_enum)]
    events: Option<FormatArg>,
    /// How the report is written [default: text on a terminal, else json]
    #[arg(long, value_enum)]
    format: Option<ReportFormat>,
}

pub(super) fn run(args: &ProofArgs) -> Result<(), CliError> {
    match &args.what {
        What::Roots(args) => roots(args),
        What::Make(args) => make(args),
        What::Check(args) => check(args),
    }
}

/// A line of `proof roots`.
#[derive(Serialize, Deserialize, Debug)]
pub(super) struct RootRow {
    segment: u64,
    first_sequence: u64,
    last_sequence: u64,
    frame_bytes: u64,
    root: String,
}

impl RootRow {
    pub(super) fn of(facts: &SegmentFacts) -> Self {
        Self {
            segment: facts.number.0,
            first_sequence: facts.first.0,
            last_sequence: facts.last.0,
            frame_bytes: facts.frame_bytes,
            root: facts.root.to_string(),
        }
    }

    /// For people.
    pub(super) fn describe(&self) -> String {
        let Self { segment, first_sequence, last_sequence, root, .. } = self;
        format!("segment {segment:>6}  {root}  sequences {first_sequence} to {last_sequence}")
    }
}

fn facts_of(data: &Path) -> Result<Vec<SegmentFacts>, CliError> {
    store::open(data)?.segment_facts().map_err(|error| store::open_error(data, &error))
}

fn roots(args: &RootsArgs) -> Result<(), CliError> {
    // A key that cannot be used leaves nothing behind.
    let key = args.sign.as_deref().map(SignKey::read).transpose()?;
    let facts = facts_of(&args.data)?;
    if let Some(path) = &args.out {
        return publish(path, &facts, key.as_ref());
    }
    let format = ReportFormat::or_default(args.format);
    let mut out = BufWriter::new(stdout());
    match format {
        ReportFormat::Json => out.write_all(&root_lines(&facts)?)?,
        ReportFormat::Text => {
            for row in facts.iter().map(RootRow::of) {
                writeln!(out, "{}", row.describe())?;
            }
        }
    }
    if facts.is_empty() && format == ReportFormat::Text {
        writeln!(out, "no segment is sealed yet; `matchtape seal` seals the open one")?;
    }
    out.flush()?;
    Ok(())
}

/// What is published: a JSON object per segment and line.
fn root_lines(facts: &[SegmentFacts]) -> Result<Vec<u8>, CliError> {
    let mut lines = Vec::new();
    for row in facts.iter().map(RootRow::of) {
        serde_json::to_writer(&mut lines, &row).map_err(std::io::Error::from)?;
        lines.push(b'\n');
    }
    Ok(lines)
}

/// Writes the roots to a new file and, with a key, their signature to another.
fn publish(path: &Path, facts: &[SegmentFacts], key: Option<&SignKey>) -> Result<(), CliError> {
    let lines = root_lines(facts)?;
    let signature_path = signing::signature_of(path);
    let mut roots = NewFile::create(path)?;
    let signature = key.map(|key| Ok::<_, CliError>((key, NewFile::create(&signature_path)?))).transpose()?;
    roots.writer().write_all(&lines).map_err(|error| failed(path, error))?;
    roots.finish()?;
    eprintln!("{} roots in {}", facts.len(), path.display());
    if let Some((key, mut file)) = signature {
        let written = file.writer().write_all(&key.sign(&lines));
        written.map_err(|error| failed(&signature_path, error))?;
        file.finish()?;
        eprintln!("signature in {}", signature_path.display());
    }
    Ok(())
}

/// What a proof is about.
#[derive(Serialize, Debug)]
struct Report {
    tape: String,
    first_sequence: u64,
    last_sequence: u64,
    events: u64,
    frame_bytes: u64,
    segments: Vec<u64>,
    proof: String,
    frames: String,
}

impl Report {
    fn of(proof: &Proof, file: &Path, frames: &Path) -> Self {
        Self {
            tape: format!("{:016x}", proof.tape.0),
            first_sequence: proof.first.0,
            last_sequence: proof.last.0,
            events: (proof.last.0 - proof.first.0).saturating_add(1),
            frame_bytes: proof.parts.iter().fold(0, |sum: u64, part| sum.saturating_add(part.bytes)),
            segments: proof.parts.iter().map(|part| part.segment.0).collect(),
            proof: file.display().to_string(),
            frames: frames.display().to_string(),
        }
    }

    fn write(&self, format: Option<ReportFormat>, out: &mut dyn Write, verb: &str) -> Result<(), CliError> {
        match ReportFormat::or_default(format) {
            ReportFormat::Json => {
                serde_json::to_writer(&mut *out, self).map_err(std::io::Error::from)?;
                writeln!(out)?;
            }
            ReportFormat::Text => {
                let Self { tape, first_sequence, last_sequence, events, frame_bytes, .. } = self;
                let (proof, frames) = (&self.proof, &self.frames);
                let segments = match self.segments.as_slice() {
                    [one] => format!("segment {one}"),
                    [first, .., last] => format!("segments {first} to {last}"),
                    [] => "no segment".to_owned(),
                };
                writeln!(
                    out,
                    "{verb}  sequences {first_sequence} to {last_sequence} of tape {tape}: {events} events"
                )?;
                writeln!(out, "frames  {frames}: {frame_bytes} bytes, of {segments}")?;
                writeln!(out, "proof   {proof}")?;
            }
        }
        out.flush()?;
        Ok(())
    }
}

fn frames_of(proof: &Path, frames: Option<&PathBuf>) -> PathBuf {
    frames.cloned().unwrap_or_else(|| proof.with_extension("frames"))
}

fn failed(path: &Path, error: impl std::fmt::Display) -> CliError {
    CliError::failed(format_args!("{}: {error}", path.display()))
}

/// A file that this run makes; removed again unless it is finished.
struct NewFile<'a> {
    path: &'a Path,
    file: Option<BufWriter<File>>,
}

impl<'a> NewFile<'a> {
    fn create(path: &'a Path) -> Result<Self, CliError> {
        let file = File::create_new(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => CliError::with_advice(
                format_args!("{} exists", path.display()),
                "--out and --frames name new files",
            ),
            _ => failed(path, error),
        })?;
        Ok(Self { path, file: Some(BufWriter::with_capacity(1 << 20, file)) })
    }

    fn writer(&mut self) -> &mut BufWriter<File> {
        self.file.as_mut().expect("open until it is finished")
    }

    fn finish(mut self) -> Result<(), CliError> {
        let done = self.writer().flush().and_then(|()| self.writer().get_ref().sync_all());
        done.map_err(|error| failed(self.path, error))?;
        self.file = None;
        Ok(())
    }
}

impl Drop for NewFile<'_> {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            // Nothing more can be done about one that stays.
            let _ = std::fs::remove_file(self.path);
        }
    }
}

fn progress_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("[{bar:40}] {bytes}/{total_bytes}");
    ProgressBar::new(0).with_style(style.expect("the template is right"))
}

fn make(args: &MakeArgs) -> Result<(), CliError> {
    let store = store::open(&args.data)?;
    let facts = store.segment_facts().map_err(|error| store::open_error(&args.data, &error))?;
    let Some(sealed) = facts.last().map(|segment| segment.last) else {
        return Err(not_sealed(
            format_args!(
                "{}: no segment is sealed yet, so there is no root to prove against",
                args.data.display()
            ),
            &args.data,
        ));
    };
    let reader = store.reader();
    let first_kept = reader.first_kept();
    let provable = facts.iter().map(|segment| segment.first).find(|first| *first >= first_kept);
    let first = args.from.map(Sequence).or(provable).unwrap_or(first_kept);
    let last = args.to.map_or(sealed, Sequence);
    let visible = reader.visible().max(sealed);
    if last > visible {
        return Err(CliError::with_advice(
            format_args!("{}: the tape ends at sequence {visible}, before {last}", args.data.display()),
            "leave --to away for all that is sealed",
        ));
    }
    let frames_path = frames_of(&args.out, args.frames.as_ref());
    if frames_path == args.out {
        return Err(CliError::Usage("--out and --frames name the same file".to_owned()));
    }
    let mut out = NewFile::create(&args.out)?;
    let mut frames = NewFile::create(&frames_path)?;
    let bar = progress_bar();
    let proven = matchtape_storage::prove(&reader, &facts, (first, last), frames.writer(), &mut |step| {
        bar.set_length(step.bytes_total);
        bar.set_position(step.bytes);
    });
    bar.finish_and_clear();
    let proof = proven.map_err(|error| match error {
        ProveError::Read(error) => error.into(),
        ProveError::Write(error) => failed(&frames_path, error),
        ProveError::NotSealed(sequence) if sequence > sealed => not_sealed(
            format_args!("sequence {sequence} is not sealed yet: what is sealed ends at sequence {sealed}"),
            &args.data,
        ),
        error @ ProveError::Dropped { .. } => match provable {
            Some(first) => {
                CliError::with_advice(error, format_args!("the first that can be proven is --from {first}"))
            }
            None => CliError::with_advice(error, "nothing that is sealed can be proven here"),
        },
        error @ ProveError::NotSealed(_) => {
            CliError::with_advice(error, "`matchtape proof roots` lists what is sealed")
        }
        error @ ProveError::Empty { .. } => {
            CliError::with_advice(error, "--from is at most --to, and at least 1")
        }
        error @ ProveError::Root(_) => {
            CliError::with_advice(error, "`matchtape verify` with the same --data tells what else is wrong")
        }
    })?;
    frames.finish()?;
    out.writer().write_all(&proof.encode()).map_err(|error| failed(&args.out, error))?;
    out.finish()?;
    Report::of(&proof, &args.out, &frames_path).write(args.format, &mut stdout(), "proof of")
}

/// What is not sealed can be.
fn not_sealed(what: impl std::fmt::Display, data: &Path) -> CliError {
    CliError::with_advice(
        what,
        format_args!(
            "`matchtape seal --data {}`, or with --server while a node runs on it, seals the rest",
            data.display()
        ),
    )
}

fn read_proof(path: &Path) -> Result<Proof, CliError> {
    let mut file = File::open(path).map_err(|error| failed(path, error))?;
    let length = file.metadata().map_err(|error| failed(path, error))?.len();
    if length > PROOF_BYTES_MAX {
        return Err(failed(
            path,
            format_args!("{length} bytes are no proof: it has at most {PROOF_BYTES_MAX}"),
        ));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(|error| failed(path, error))?;
    Proof::decode(path, &bytes).map_err(|error| match error {
        ProofFileError::Damage(_) => {
            CliError::with_advice(error, "the proof says nothing about the frames then: get it anew")
        }
        ProofFileError::Version(_) => CliError::with_advice(error, "use the release that has made it"),
    })
}

/// The roots that whoever checks trusts.
fn trusted(args: &CheckArgs, proof: &Proof) -> Result<BTreeMap<SegmentNumber, SegmentRoot>, CliError> {
    if let Some(data) = &args.data {
        return Ok(facts_of(data)?.iter().map(|facts| (facts.number, facts.root)).collect());
    }
    let Some(path) = &args.roots else {
        let segments: Vec<SegmentNumber> = proof.parts.iter().map(|part| part.segment).collect();
        if segments.len() != args.root.len() {
            let (given, needed) = (args.root.len(), segments.len());
            let numbers = segments.iter().map(|segment| segment.0.to_string()).collect::<Vec<_>>().join(", ");
            return Err(CliError::Usage(format!(
                "{given} roots are given, the proof needs {needed}: those of the segments {numbers}"
            )));
        }
        return Ok(segments.into_iter().zip(args.root.iter().copied()).collect());
    };
    let text = std::fs::read_to_string(path).map_err(|error| failed(path, error))?;
    if let Some(public) = &args.signed_by {
        // The bytes that were read, and no others, are judged and used.
        let signature = args.signature.clone().unwrap_or_else(|| signing::signature_of(path));
        signing::check(path, text.as_bytes(), &signature, public)?;
    }
    let mut roots = BTreeMap::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |what: &dyn std::fmt::Display| {
            CliError::with_advice(
                format_args!("{} line {}: {what}", path.display(), number + 1),
                "--roots names what `matchtape proof roots --format json` wrote",
            )
        };
        let row: RootRow = serde_json::from_str(line).map_err(|error| wrong(&error))?;
        let root: SegmentRoot = row.root.parse().map_err(|error: String| wrong(&error))?;
        if roots.insert(SegmentNumber(row.segment), root).is_some_and(|other| other != root) {
            return Err(wrong(&format_args!("another root of segment {}", row.segment)));
        }
    }
    Ok(roots)
}

fn check(args: &CheckArgs) -> Result<(), CliError> {
    let proof = read_proof(&args.proof)?;
    let roots = trusted(args, &proof)?;
    let path = frames_of(&args.proof, args.frames.as_ref());
    let mut file = File::open(&path).map_err(|error| failed(&path, error))?;
    let not_proven = |error| {
        CliError::with_advice(
            format_args!("not proven: {}: {error}", path.display()),
            "the frames are not the whole and unaltered run that the proof states, or the roots are of another tape",
        )
    };
    let root_of = |segment| roots.get(&segment).copied();
    let bar = progress_bar();
    bar.set_length(file.metadata().map_err(|error| failed(&path, error))?.len());
    let judged = matchtape_storage::check_proof(&proof, &mut bar.wrap_read(&mut file), root_of, &mut |_| {});
    bar.finish_and_clear();
    judged.map_err(not_proven)?;
    let report = Report::of(&proof, &args.proof, &path);
    let Some(format) = args.events else {
        return report.write(args.format, &mut stdout(), "proven ");
    };
    // Only now, and proven once more as they are shown.
    file.rewind().map_err(|error| failed(&path, error))?;
    let mut output =
        Output::new(BufWriter::with_capacity(64 * 1024, stdout()), FormatArg::or_default(Some(format)));
    let mut written = Ok(());
    let shown = matchtape_storage::check_proof(&proof, &mut BufReader::new(file), root_of, &mut |frame| {
        for event in frame.events() {
            if written.is_ok() {
                written = output.write(&EventRow::new(&event, None));
            }
        }
    });
    written?;
    output.finish::<EventRow>()?;
    shown.map_err(not_proven)?;
    report.write(args.format, &mut std::io::stderr(), "proven ")
}
