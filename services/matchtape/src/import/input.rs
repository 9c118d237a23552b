//! Files, compressed or not: told apart by their first bytes, never by their names.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

const BUFFER_BYTES: usize = 256 * 1024;
const GZIP_MAGIC: [u8; 2] = [0x1F, 0x8B];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];

/// A file that cannot be read.
#[derive(thiserror::Error, Debug)]
#[error("{file}: {source}", file = file.display())]
pub struct InputError {
    /// Which.
    pub file: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// The uncompressed content of a file, front to back.
pub struct Input {
    file: PathBuf,
    content: Box<dyn BufRead + Send>,
    read: Arc<AtomicU64>,
    bytes: u64,
}

/// Counts what is read from the file itself.
struct Counted<R> {
    inner: R,
    read: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        // Relaxed: only shown to people.
        self.read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// Every zstd frame of a file, one after the other; skippable frames are skipped, checksums are checked.
struct ZstdFrames<R> {
    source: R,
    decoder: FrameDecoder,
    inside: bool,
}

impl<R: BufRead> ZstdFrames<R> {
    fn new(source: R) -> Self {
        Self { source, decoder: FrameDecoder::new(), inside: false }
    }

    /// Begins the next frame; `false` at the end of the file.
    fn begin(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.decoder.reset(&mut self.source) {
                Ok(()) => {
                    self.inside = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let length = u64::from(length);
                    if io::copy(&mut self.source.by_ref().take(length), &mut io::sink())? < length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for ZstdFrames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.inside && !self.begin()? {
                return Ok(0);
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                self.decoder
                    .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1))
                    .map_err(io::Error::other)?;
            }
            let count = self.decoder.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            self.inside = false;
            let (stated, found) =
                (self.decoder.get_checksum_from_data(), self.decoder.get_calculated_checksum());
            if stated.is_some() && stated != found {
                return Err(io::Error::other("the checksum of a zstd frame does not match its content"));
            }
        }
    }
}

impl Input {
    /// Opens a file; gzip and zstd are recognised by their first bytes.
    pub fn open(file: &Path) -> Result<Self, InputError> {
        let wrap = |source| InputError { file: file.to_owned(), source };
        let opened = File::open(file).map_err(wrap)?;
        let bytes = opened.metadata().map_err(wrap)?.len();
        Self::new(file, opened, bytes)
    }

    /// Content that is not in a file; `name` is what errors call it.
    pub fn of_bytes(name: &str, content: Vec<u8>) -> Result<Self, InputError> {
        let bytes = content.len() as u64;
        Self::new(Path::new(name), io::Cursor::new(content), bytes)
    }

    fn new(file: &Path, source: impl Read + Send + 'static, bytes: u64) -> Result<Self, InputError> {
        let read = Arc::new(AtomicU64::new(0));
        let counted = Counted { inner: source, read: Arc::clone(&read) };
        let mut raw = BufReader::with_capacity(BUFFER_BYTES, counted);
        let head = raw.fill_buf().map_err(|source| InputError { file: file.to_owned(), source })?;
        let content: Box<dyn BufRead + Send> = if head.starts_with(&GZIP_MAGIC) {
            Box::new(BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(raw)))
        } else if head.starts_with(&ZSTD_MAGIC) {
            Box::new(BufReader::with_capacity(BUFFER_BYTES, ZstdFrames::new(raw)))
        } else {
            Box::new(raw)
        };
        Ok(Self { file: file.to_owned(), content, read, bytes })
    }

    /// Which file it is.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Bytes of the file read so far, and its size.
    pub fn progress(&self) -> super::Progress {
        // Relaxed: only shown to people.
        super::Progress { done: self.read.load(Ordering::Relaxed), total: self.bytes }
    }

    /// An error of reading, with the file's name.
    pub fn error(&self, source: io::Error) -> InputError {
        InputError { file: self.file.clone(), source }
    }

    /// Reads until `buffer` is full or the content ends; returns how much there was.
    pub fn read_up_to(&mut self, buffer: &mut [u8]) -> Result<usize, InputError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.content.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.error(error)),
            }
        }
        Ok(filled)
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.content.read(buffer)
    }
}
