//! Real object stores behind [`ColdStore`](super::ColdStore): a local directory, and, as the build has them, S3, Google Cloud Storage and Azure.
//!
//! The library underneath is asynchronous. Its futures run on a runtime of one thread that belongs to the store; callers
//! wait for the answer, from whatever thread, also one of another runtime.

use std::future::Future;
use std::io::Read;
use std::path::Path as FilePath;
use std::sync::{Arc, mpsc};

use object_store::path::Path;
use object_store::{Error, MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};

use tokio::runtime::{Builder, Runtime};

use super::cold::{ColdError, ColdStore};

/// A longer object is sent in parts of this size. S3 wants at least 5 MiB.
const PART_BYTES: u64 = 8 << 20;

/// Why a place for objects cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum ColdPlaceError {
    /// It is neither a directory nor a URL of a kind that this build knows.
    #[error("{place}: {what}")]
    Unknown {
        /// As it was given.
        place: String,
        /// What is wrong with it.
        what: String,
    },
    /// Its settings do not do.
    #[error("{place}: {source}")]
    Settings {
        /// As it was given.
        place: String,
        /// The library's word.
        source: Box<Error>,
    },
    /// The directory or the runtime could not be made.
    #[error("{place}: {source}")]
    System {
        /// As it was given.
        place: String,
        /// The system's word.
        source: std::io::Error,
    },
}

/// Opens a place for objects: a directory (made if need be; also as `file:///...`), `s3://BUCKET/PREFIX`,
/// `gs://BUCKET/PREFIX` or `az://CONTAINER/PREFIX`. Credentials and regions come from the environment, as the clouds' own
/// tools take them. Nothing is asked of the place yet.
pub fn open_cold(place: &str) -> Result<Arc<dyn ColdStore>, ColdPlaceError> {
    let system = |source| ColdPlaceError::System { place: place.to_owned(), source };
    let (store, prefix) = open_place(place)?;
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("cold")
        .enable_all()
        .build()
        .map_err(system)?;
    let (place, runtime) = (place.trim_end_matches('/').to_owned(), Some(runtime));
    Ok(Arc::new(Objects { place, store, prefix, runtime }))
}

fn open_place(place: &str) -> Result<(Arc<dyn ObjectStore>, Path), ColdPlaceError> {
    let unknown = |what: &str| ColdPlaceError::Unknown { place: place.to_owned(), what: what.to_owned() };
    let settings = |source| ColdPlaceError::Settings { place: place.to_owned(), source: Box::new(source) };
    let (scheme, rest) = match place.split_once("://") {
        None => ("file", place),
        Some(parts) => parts,
    };
    match scheme {
        "file" => {
            let directory = FilePath::new(rest);
            let system = |source| ColdPlaceError::System { place: place.to_owned(), source };
            std::fs::create_dir_all(directory).map_err(system)?;
            let local = object_store::local::LocalFileSystem::new_with_prefix(directory).map_err(settings)?;
            Ok((Arc::new(local.with_fsync(true)), Path::default()))
        }
        #[cfg(feature = "cold-s3")]
        "s3" => {
            let builder = object_store::aws::AmazonS3Builder::from_env().with_url(place);
            Ok((
                Arc::new(builder.with_retry(no_retries()).build().map_err(settings)?),
                prefix_of(place, rest)?,
            ))
        }
        #[cfg(feature = "cold-gcs")]
        "gs" => {
            let builder = object_store::gcp::GoogleCloudStorageBuilder::from_env().with_url(place);
            Ok((
                Arc::new(builder.with_retry(no_retries()).build().map_err(settings)?),
                prefix_of(place, rest)?,
            ))
        }
        #[cfg(feature = "cold-azure")]
        "az" => {
            let builder = object_store::azure::MicrosoftAzureBuilder::from_env().with_url(place);
            Ok((
                Arc::new(builder.with_retry(no_retries()).build().map_err(settings)?),
                prefix_of(place, rest)?,
            ))
        }
        #[cfg(not(feature = "cold-s3"))]
        "s3" => Err(unknown("this build has no S3, build it with --features cold-s3")),
        #[cfg(not(feature = "cold-gcs"))]
        "gs" => Err(unknown("this build has no Google Cloud Storage, build it with --features cold-gcs")),
        #[cfg(not(feature = "cold-azure"))]
        "az" => Err(unknown("this build has no Azure, build it with --features cold-azure")),
        _ => Err(unknown("neither a directory nor one of file://, s3://, gs://, az://")),
    }
}

/// What stands behind the bucket.
#[cfg(any(feature = "cold-s3", feature = "cold-gcs", feature = "cold-azure"))]
fn prefix_of(place: &str, rest: &str) -> Result<Path, ColdPlaceError> {
    let prefix = rest.split_once('/').map_or("", |(_, prefix)| prefix);
    Path::parse(prefix.trim_matches('/'))
        .map_err(|error| ColdPlaceError::Unknown { place: place.to_owned(), what: error.to_string() })
}

/// Attempts are repeated in one place, [`Patience`](super::Patience), whose bound is stated.
#[cfg(any(feature = "cold-s3", feature = "cold-gcs", feature = "cold-azure"))]
fn no_retries() -> object_store::RetryConfig {
    object_store::RetryConfig { max_retries: 0, ..Default::default() }
}

#[derive(Debug)]
struct Objects {
    place: String,
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    /// There until the store goes.
    runtime: Option<Runtime>,
}

impl Drop for Objects {
    /// The last reader may be a task of another runtime, where nobody may wait for this one's threads.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Objects {
    fn path(&self, key: &str) -> Path {
        key.split('/').fold(self.prefix.clone(), |path, part| path.join(part))
    }

    /// Runs a future on the store's own thread and waits for it.
    fn wait<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        let (done, answer) = mpsc::sync_channel(1);
        self.runtime.as_ref().expect("taken when it is dropped").spawn(async move {
            // Whoever asked waits below.
            let _ = done.send(future.await);
        });
        answer.recv().expect("the runtime outlives its store, and a task that panics is a bug of the library")
    }

    fn error(&self, operation: &'static str, key: &str, error: impl Into<Failure>) -> ColdError {
        match error.into() {
            Failure::Store(Error::NotFound { .. }) => {
                ColdError::Missing { place: self.place.clone(), key: key.to_owned() }
            }
            Failure::Store(source) => self.failed(operation, key, source.into()),
            Failure::Source(source) => self.failed(operation, key, source.into()),
        }
    }

    fn failed(
        &self,
        operation: &'static str,
        key: &str,
        source: Box<dyn std::error::Error + Send + Sync>,
    ) -> ColdError {
        ColdError::Failed { place: self.place.clone(), operation, key: key.to_owned(), source }
    }

    fn put_parts(
        &self,
        mut upload: Box<dyn MultipartUpload>,
        source: &mut dyn Read,
        bytes: u64,
    ) -> Result<(), Failure> {
        let mut left = bytes;
        while left > 0 {
            let part = read_part(source, left.min(PART_BYTES))?;
            left -= part.content_length() as u64;
            let sent = upload.put_part(part);
            if let Err(error) = self.wait(sent) {
                // Not told: there is an earlier error to tell, and an unfinished upload is no object.
                let _ = self.wait(async move { upload.abort().await });
                return Err(error.into());
            }
        }
        self.wait(async move { upload.complete().await })?;
        Ok(())
    }
}

/// What can go wrong while storing.
enum Failure {
    Store(Error),
    Source(std::io::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Source(error)
    }
}

/// Exactly so many bytes of the source.
fn read_part(source: &mut dyn Read, bytes: u64) -> std::io::Result<PutPayload> {
    let mut part = vec![0; bytes as usize];
    source.read_exact(&mut part)?;
    Ok(part.into())
}

impl ColdStore for Objects {
    fn place(&self) -> &str {
        &self.place
    }

    fn put(&self, key: &str, source: &mut dyn Read, bytes: u64) -> Result<(), ColdError> {
        let (store, path) = (Arc::clone(&self.store), self.path(key));
        let stored = if bytes <= PART_BYTES {
            read_part(source, bytes).map_err(Failure::from).and_then(|payload| {
                self.wait(async move { store.put(&path, payload).await }).map(|_| ()).map_err(Failure::from)
            })
        } else {
            self.wait(async move { store.put_multipart(&path).await })
                .map_err(Failure::from)
                .and_then(|upload| self.put_parts(upload, source, bytes))
        };
        stored.map_err(|error| self.error("store", key, error))
    }

    fn get_range(&self, key: &str, offset: u64, buffer: &mut [u8]) -> Result<usize, ColdError> {
        let (store, path) = (Arc::clone(&self.store), self.path(key));
        let range = offset..offset.saturating_add(buffer.len() as u64);
        let answer = self.wait(async move { store.get_range(&path, range).await });
        match answer {
            Ok(bytes) => {
                let read = bytes.len().min(buffer.len());
                buffer[..read].copy_from_slice(&bytes[..read]);
                Ok(read)
            }
            Err(error @ Error::NotFound { .. }) => Err(self.error("read", key, error)),
            // A range behind the end is refused otherwise by each store; the object's length tells.
            Err(error) => match self.head(key)? {
                length if length <= offset => Ok(0),
                _ => Err(self.error("read", key, error)),
            },
        }
    }

    fn head(&self, key: &str) -> Result<u64, ColdError> {
        let (store, path) = (Arc::clone(&self.store), self.path(key));
        let answer = self.wait(async move { store.head(&path).await });
        answer.map(|meta| meta.size).map_err(|error| self.error("ask for", key, error))
    }

    fn delete(&self, key: &str) -> Result<(), ColdError> {
        let (store, path) = (Arc::clone(&self.store), self.path(key));
        match self.wait(async move { store.delete(&path).await }) {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.error("remove", key, error)),
        }
    }
}

/// That a cloud is there, nobody can test without one; but what its URL and the environment make of it needs none:
/// `cargo test -p matchtape-storage --features cold-s3,cold-gcs,cold-azure --lib`.
#[cfg(all(test, feature = "cold-s3", feature = "cold-gcs", feature = "cold-azure"))]
mod tests {
    use super::*;

    /// Says so to the process that was begun for it.
    const ALONE: &str = "MATCHTAPE_TEST_ALONE";

    #[test]
    fn each_cloud_is_named_by_its_url_and_configured_by_the_environment() {
        if std::env::var_os(ALONE).is_none() {
            // Whoever runs this may have settings of their own, and those of a process belong to all of its threads.
            let name = "archive::object_store::tests::each_cloud_is_named_by_its_url_and_configured_by_the_environment";
            let mut again = std::process::Command::new(std::env::current_exe().unwrap());
            let again = again.env_clear().env(ALONE, "1").env("AZURE_STORAGE_ACCOUNT_NAME", "account");
            let done = again.args(["--exact", name]).output().unwrap();
            let said = String::from_utf8_lossy(&done.stdout);
            assert!(done.status.success() && said.contains("1 passed"), "{said}");
            return;
        }
        for (place, store) in [
            ("s3://bucket", "AmazonS3(bucket)"),
            ("gs://bucket", "GoogleCloudStorage(bucket)"),
            ("az://bucket", "MicrosoftAzure { account: account, container: bucket }"),
        ] {
            for (below, key) in [("", "tape/1"), ("/", "tape/1"), ("/tapes/one/", "tapes/one/tape/1")] {
                let place = format!("{place}{below}");
                let (opened, prefix) = open_place(&place).unwrap_or_else(|error| panic!("{place}: {error}"));
                assert_eq!(opened.to_string(), store, "{place}");
                let objects = Objects { place, store: opened, prefix, runtime: None };
                assert_eq!(objects.path("tape/1").as_ref(), key, "{}", objects.place);
            }
            let opened = open_cold(&format!("{place}/tapes/")).unwrap();
            assert_eq!(opened.place(), format!("{place}/tapes"));
        }
        // Not to be used is told now, and not at the first upload.
        for (wrong, what) in
            [("s3://", "s3"), ("gs://", "gs"), ("s3://bucket/a//b", "a//b"), ("ftp://bucket", "ftp")]
        {
            let error = open_place(wrong).unwrap_err().to_string();
            assert!(error.contains(what), "{wrong}: {error}");
        }
    }
}
