//! `matchtape state`: keyed reference data, the last value of each key.

use std::io::{Read, Write, stdin, stdout};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use matchtape_client::state::{self, from_readable, readable};
use matchtape_client::{StateRow, as_of};
use matchtape_market::KeyedState;
use matchtape_schemas::Sequence;
use matchtape_schemas::event::{STATE_BYTES_MAX, STATE_KEY_BYTES_MAX};
use matchtape_storage::Query;

use super::error::CliError;
use super::position::{At, Position};
use super::query::{Common, Place, Session, server};
use crate::server::ServerError;

/// Keep small reference data on the tape by key: put, get, delete, list, now or as of any position.
#[derive(Args, Debug)]
#[command(after_help = "Keys and values are bytes: text as it is, anything else in hexadecimal after 0x.
Reading works on a directory (--data) and on a running node (--server); writing goes to a node.

Examples:
  matchtape state put limits/ESH4 5000 --server http://127.0.0.1:7474
  matchtape state put params --file params.json --server http://127.0.0.1:7474
  matchtape state get limits/ESH4 --data tape/
  matchtape state get limits/ESH4 --data tape/ --at 2023-12-25T23:00:00Z
  matchtape state list --prefix limits/ --server http://127.0.0.1:7474 --format csv
  matchtape state delete limits/ESH4 --server http://127.0.0.1:7474")]
pub(super) struct StateArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    Put(PutArgs),
    Get(GetArgs),
    Delete(DeleteArgs),
    List(ListArgs),
}

/// Set a key's value.
#[derive(Args, Debug)]
struct PutArgs {
    /// The key
    #[arg(value_parser = key)]
    key: Key,
    /// Its value; or use --file
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    value: Option<String>,
    /// The file with the value; - is the standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    writer: Writer,
}

/// Write a key's value to the standard output, as it is.
#[derive(Args, Debug)]
struct GetArgs {
    /// The key
    #[arg(value_parser = key)]
    key: Key,
    #[command(flatten)]
    common: Common,
    /// As of this position: end, a sequence, or a time
    #[arg(long, value_name = "POSITION", default_value = "end")]
    at: At,
}

/// Take a key's value away.
#[derive(Args, Debug)]
struct DeleteArgs {
    /// The key
    #[arg(value_parser = key)]
    key: Key,
    #[command(flatten)]
    writer: Writer,
}

/// List keys and values in ascending order of the keys.
#[derive(Args, Debug)]
struct ListArgs {
    #[command(flatten)]
    common: Common,
    /// Only keys that begin with this
    #[arg(long, value_parser = bytes, default_value = "")]
    prefix: Bytes,
    /// From this key on
    #[arg(long, value_parser = bytes, default_value = "")]
    from: Bytes,
    /// Before this key
    #[arg(long, value_parser = bytes)]
    to: Option<Bytes>,
    /// As of this position: end, a sequence, or a time
    #[arg(long, value_name = "POSITION", default_value = "end")]
    at: At,
    /// At most so many
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,
}

/// Where and as whom to write.
#[derive(Args, Debug)]
struct Writer {
    /// The gateway of a running node, as http://127.0.0.1:7474 [default: MATCHTAPE_SERVER]
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// Write as this producer [default: one of the gateway's own]
    #[arg(long, value_name = "ID")]
    producer: Option<u32>,
}

/// Bytes of a command line.
#[derive(Clone, Debug)]
struct Bytes(Vec<u8>);

/// Bytes that may be a key.
#[derive(Clone, Debug)]
struct Key(Vec<u8>);

fn bytes(text: &str) -> Result<Bytes, String> {
    from_readable(text).map(Bytes).ok_or_else(|| "after 0x come pairs of hexadecimal digits".to_owned())
}

fn key(text: &str) -> Result<Key, String> {
    let Bytes(key) = bytes(text)?;
    if key.is_empty() || key.len() > STATE_KEY_BYTES_MAX {
        return Err(format!("a key has 1 to {STATE_KEY_BYTES_MAX} bytes, this one {}", key.len()));
    }
    Ok(Key(key))
}

pub(super) fn run(args: &StateArgs) -> Result<(), CliError> {
    match &args.what {
        What::Put(args) => put(args),
        What::Get(args) => get(args),
        What::Delete(args) => {
            let server = server(args.writer.server.as_deref())?;
            written(server.delete_state(&path(&args.key), &args.writer.parameters())?)
        }
        What::List(args) => list(args),
    }
}

impl Writer {
    fn parameters(&self) -> Vec<(&'static str, String)> {
        self.producer.map(|producer| ("producer", producer.to_string())).into_iter().collect()
    }
}

fn path(Key(key): &Key) -> String {
    super::query::path_below("/v1/state/", &readable(key))
}

fn written(sequence: u64) -> Result<(), CliError> {
    eprintln!("sequence {sequence}, visible");
    Ok(())
}

fn put(args: &PutArgs) -> Result<(), CliError> {
    let value = match (&args.value, &args.file) {
        (Some(text), _) => bytes(text).map_err(CliError::Usage)?.0,
        (None, Some(file)) => {
            let limit = STATE_BYTES_MAX as u64 + 1;
            let mut value = Vec::new();
            let read = if file.as_os_str() == "-" {
                stdin().lock().take(limit).read_to_end(&mut value)
            } else {
                std::fs::File::open(file).and_then(|file| file.take(limit).read_to_end(&mut value))
            };
            read.map_err(|error| CliError::failed(format_args!("{}: {error}", file.display())))?;
            value
        }
        (None, None) => unreachable!("one of them is required"),
    };
    if args.key.0.len() + value.len() > STATE_BYTES_MAX {
        return Err(CliError::with_advice(
            format_args!(
                "key and value have {} bytes or more, at most {STATE_BYTES_MAX} are kept",
                value.len()
            ),
            "keep large things elsewhere, and their address here",
        ));
    }
    let server = server(args.writer.server.as_deref())?;
    written(server.put_state(&path(&args.key), &args.writer.parameters(), &value)?)
}

fn through(session: &Session, at: At, scope: &Query) -> Result<Sequence, CliError> {
    match at {
        At::End => Ok(session.reader.visible()),
        At::Position(Position::Sequence(sequence)) => session.sequence(sequence),
        At::Position(Position::Time(time)) => Ok(as_of::prefix(&session.reader, scope, time)?),
    }
}

fn at_parameter(at: At) -> Vec<(&'static str, String)> {
    match at {
        At::End => Vec::new(),
        At::Position(at) => vec![("at", at.to_string())],
    }
}

fn get(args: &GetArgs) -> Result<(), CliError> {
    let no_value =
        |what: &str| CliError::failed(format_args!("{what}: {:?} has no value", readable(&args.key.0)));
    let value = match args.common.open()? {
        Place::Data(session) => {
            let scope =
                Query { state_key: Some(args.key.0.clone()), kinds: KeyedState::KINDS, ..Query::default() };
            let through = through(&session, args.at, &scope)?;
            let found = state::get(&session.reader, &args.key.0, through)?;
            found.ok_or_else(|| no_value(&format!("at sequence {through}")))?.value.into_vec()
        }
        Place::Server(server) => match server.state(&path(&args.key), &at_parameter(args.at)) {
            Err(ServerError::Refused { error, .. }) if error == "unknown_key" => {
                return Err(no_value(server.url()));
            }
            found => found?,
        },
    };
    let mut out = stdout().lock();
    out.write_all(&value)?;
    out.flush()?;
    Ok(())
}

/// A page of a gateway's answer.
#[derive(serde::Deserialize)]
struct Page {
    sequence: u64,
    state: Vec<StateRow>,
    next_from: Option<String>,
}

fn list(args: &ListArgs) -> Result<(), CliError> {
    let limit = args.limit.unwrap_or(usize::MAX);
    let mut output = args.common.output();
    match args.common.open()? {
        Place::Data(session) => {
            let scope = Query { kinds: KeyedState::KINDS, ..Query::default() };
            let all = state::all(&session.reader, through(&session, args.at, &scope)?)?;
            let to = args.to.as_ref().map(|to| to.0.as_slice());
            for (key, value) in all.range(&args.prefix.0, &args.from.0, to).take(limit) {
                output.write(&StateRow::new(key, value))?;
            }
        }
        Place::Server(server) => {
            let mut parameters = at_parameter(args.at);
            parameters.push(("prefix", readable(&args.prefix.0)));
            parameters.extend(args.to.as_ref().map(|to| ("to", readable(&to.0))));
            let (mut from, mut left) = (readable(&args.from.0), limit);
            while left > 0 {
                let mut asked = parameters.clone();
                asked.push(("from", from));
                let page: Page = server.object("/v1/state", &asked)?;
                page.state.iter().take(left).try_for_each(|row| output.write(row))?;
                left = left.saturating_sub(page.state.len());
                // All pages are of the moment of the first one.
                parameters.retain(|(name, _)| *name != "at");
                parameters.push(("at", page.sequence.to_string()));
                match page.next_from {
                    Some(next) => from = next,
                    None => break,
                }
            }
        }
    }
    output.finish::<StateRow>()?;
    Ok(())
}
