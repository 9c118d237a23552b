//! What can go wrong on a bus, with the facts and what to do about it.

use std::path::PathBuf;

use iceoryx2::node::NodeCreationFailure;
use iceoryx2::port::ReceiveError;
use iceoryx2::port::notifier::NotifierCreateError;
use matchtape_schemas::frame::FrameError;
use matchtape_schemas::{Epoch, Sequence, TapeId};

use crate::config::MemoryRequired;

/// Why an operation on a bus failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BusError {
    /// The name cannot be turned into files and shared memory objects.
    #[error("bus namespace {namespace:?} cannot be used: {reason}")]
    BadName {
        /// The namespace asked for.
        namespace: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A value of the configuration cannot work.
    #[error("bus configuration: {field} {reason}")]
    BadConfig {
        /// The field of [`crate::BusConfig`].
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The bus would not fit into shared memory.
    #[error(
        "the bus needs {} bytes of shared memory ({} chunks of {} bytes and {} of management, for {subscriber_slots} \
         subscriber slots), /dev/shm has {available_bytes} free: lower the readers at the same time \
         (subscribers_max) or the frames that wait for each (buffer_samples), or enlarge it (docker run --shm-size, compose shm_size, kubernetes an emptyDir with \
         medium Memory, or mount -o remount,size=... /dev/shm)",
        required.total_bytes(), required.chunks, required.chunk_bytes, required.management_bytes
    )]
    NotEnoughSharedMemory {
        /// What the configuration takes.
        required: MemoryRequired,
        /// What is free.
        available_bytes: u64,
        /// Slots the requirement is multiplied by.
        subscriber_slots: usize,
    },
    /// Shared memory is as good as full: attaching would end in a SIGBUS, here or at the other end.
    #[error(
        "attaching to {service} takes up to {required_bytes} bytes of shared memory, /dev/shm has {available_bytes} free: \
         remove what fills it, or enlarge it (docker run --shm-size, compose shm_size, kubernetes an emptyDir with medium \
         Memory, or mount -o remount,size=... /dev/shm)"
    )]
    NoRoomToAttach {
        /// The service.
        service: String,
        /// What it may take.
        required_bytes: u64,
        /// What is free.
        available_bytes: u64,
    },
    /// The way in, or one producer's part of it, would not fit into shared memory.
    #[error(
        "{whose} needs {required_bytes} bytes of shared memory, /dev/shm has {available_bytes} free: lower the node's \
         ingress.queue_samples or ingress.producers_max, or enlarge it (docker run --shm-size, compose shm_size, \
         kubernetes an emptyDir with medium Memory, or mount -o remount,size=... /dev/shm)"
    )]
    NoMemoryForIngress {
        /// "the ingress service" or "a producer".
        whose: &'static str,
        /// What it takes.
        required_bytes: u64,
        /// What is free.
        available_bytes: u64,
    },
    /// `/dev/shm` is not there, is read-only, or belongs to somebody else.
    #[error(
        "cannot use /dev/shm: {cause}; is it mounted in this container, and may this user write to it (as `mount -t tmpfs -o \
         mode=1777 tmpfs /dev/shm` has it)?"
    )]
    SharedMemoryUnusable {
        /// The system's answer.
        cause: std::io::Error,
    },
    /// No publisher has created this service, or the last participant has left.
    #[error("there is no bus {service} under {}: is the node running, with the same namespace and root?", root.display())]
    NotFound {
        /// The service.
        service: String,
        /// The folder that was searched.
        root: PathBuf,
    },
    /// The files or shared memory belong to another user.
    #[error(
        "no permission for bus {service} under {}: publisher and subscribers must run as the same user (readers that \
         should not be trusted belong on the WebSocket); if another user owns the folder, choose another root",
        root.display()
    )]
    PermissionDenied {
        /// The service.
        service: String,
        /// The folder.
        root: PathBuf,
    },
    /// The running bus uses another version of iceoryx2.
    #[error(
        "bus {service} was created with another version of iceoryx2: stop the old processes, then start again"
    )]
    IceoryxVersion {
        /// The service.
        service: String,
    },
    /// The running bus speaks another version of this crate's sample format.
    #[error(
        "bus {service} has sample format {found}, this program expects {expected}: run publisher and subscribers of \
         the same release (stop all of them once when upgrading)"
    )]
    FormatVersion {
        /// The service.
        service: String,
        /// The running bus's version.
        found: String,
        /// This program's version.
        expected: u32,
    },
    /// The running bus was created with other sizes.
    #[error(
        "bus {service} is still open with another configuration ({reason}): that is fixed while any other process \
         uses it; stop those, or keep the old configuration"
    )]
    ConfigChanged {
        /// The service.
        service: String,
        /// Which setting differs.
        reason: String,
    },
    /// Files of the service are damaged or missing.
    #[error(
        "the shared state of bus {service} is damaged, or of another version of iceoryx2 ({cause}): stop every process \
         that uses it, then remove the files named {prefix}* under {} and in /dev/shm", root.display()
    )]
    Corrupted {
        /// The service.
        service: String,
        /// What iceoryx2 reports.
        cause: String,
        /// The folder.
        root: PathBuf,
        /// What the files' names begin with.
        prefix: String,
    },
    /// Others are creating or removing the service right now.
    #[error("bus {service} is being created or removed by another process ({cause}): try again")]
    Busy {
        /// The service.
        service: String,
        /// What iceoryx2 reports.
        cause: String,
    },
    /// Another living publisher serves this tape here.
    #[error(
        "bus {service} already has a living publisher (process {process}): a tape has one publisher; stop it, or give \
         this instance a namespace of its own"
    )]
    AnotherPublisher {
        /// The service.
        service: String,
        /// Its process, or "unknown".
        process: String,
    },
    /// All slots are taken.
    #[error(
        "bus {service} has no free slot for another {what} (of {slots}): raise {setting} in the node's configuration, or \
         wait for the slots of killed processes to be cleaned"
    )]
    NoFreeSlot {
        /// The service.
        service: String,
        /// "subscriber", "publisher", "listener", ...
        what: &'static str,
        /// What decides how many there are.
        setting: &'static str,
        /// How many there are.
        slots: usize,
    },
    /// The publisher was configured for busy polling only.
    #[error(
        "bus {service} offers no wake-ups: set wake_up to event in the publisher's configuration, or poll"
    )]
    NoWakeUps {
        /// The service.
        service: String,
    },
    /// A frame that this bus was not sized for.
    #[error("a frame of {bytes} bytes does not fit the bus's frame_bytes_max of {limit}")]
    FrameTooLarge {
        /// The frame's length.
        bytes: usize,
        /// The configured limit.
        limit: usize,
    },
    /// The bytes to be published are not a frame of this tape.
    #[error("not published: {0}")]
    BadFrame(#[source] BadSample),
    /// The frame to be published is not the next one.
    #[error("not published: the frame begins at {found}, the bus continues at {expected}")]
    OutOfOrder {
        /// The position the bus continues at.
        expected: Sequence,
        /// The frame's first sequence.
        found: Sequence,
    },
    /// A retraction on the live service: what was visible cannot vanish.
    #[error("only the speculative service can retract")]
    RetractOnLive,
    /// The subscriber holds as many frames as it may.
    #[error("{held_max} frames are held: drop one before polling again (borrowed_samples)")]
    TooManyHeld {
        /// The limit.
        held_max: usize,
    },
    /// Nothing could be received.
    #[error("receiving failed ({0:?})")]
    Receive(ReceiveError),
    /// A received sample is not what it claims to be. It was dropped; the next one shows the gap.
    #[error("a received sample is damaged and was dropped: {0}")]
    BadSample(#[source] BadSample),
    /// A sample of a term that is over, from a publisher that had already begun a later one.
    #[error("a sample of epoch {found} after one of epoch {current} from the same publisher")]
    EpochWentBack {
        /// The sample's epoch.
        found: Epoch,
        /// The epoch already seen.
        current: Epoch,
    },
    /// A restarted node has lost events that were visible. What was built from them is void.
    #[error(
        "events up to {delivered} were visible, but the restarted node's tape ends at {head}: its data were \
         lost or exchanged; discard what was built from this tape and read it again"
    )]
    TapeWentBack {
        /// The last sequence that was visible before.
        delivered: Sequence,
        /// Where the tape ends now.
        head: Sequence,
    },
    /// Something iceoryx2 or the system should not do.
    #[error("{doing} failed: {cause}")]
    Internal {
        /// What was being done.
        doing: &'static str,
        /// The report.
        cause: String,
    },
}

/// What is wrong with a sample.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadSample {
    /// Another layout of the sample header.
    #[error("sample format {found}, expected {expected}")]
    FormatVersion {
        /// In the sample.
        found: u32,
        /// This program's.
        expected: u32,
    },
    /// A sample of another tape.
    #[error("tape {found}, expected {expected}")]
    Tape {
        /// In the sample.
        found: TapeId,
        /// This subscriber's.
        expected: TapeId,
    },
    /// An unknown kind of sample.
    #[error("unknown kind of sample {found}")]
    Kind {
        /// In the sample.
        found: u32,
    },
    /// Sequences that cannot be.
    #[error("{count} events from sequence {first}")]
    Range {
        /// First sequence.
        first: u64,
        /// Number of events.
        count: u64,
    },
    /// A length beyond the payload, or one where there is none.
    #[error("{claimed} bytes claimed of a payload of {payload}")]
    Length {
        /// In the sample header.
        claimed: u64,
        /// What there is.
        payload: usize,
    },
    /// The frame itself is not valid.
    #[error("{0}")]
    Frame(#[source] FrameError),
    /// The sample header and the frame's own header disagree.
    #[error("the sample header says {field} {claimed}, the frame {found}")]
    Disagrees {
        /// Which field.
        field: &'static str,
        /// In the sample header.
        claimed: u64,
        /// In the frame.
        found: u64,
    },
}

impl BusError {
    pub(crate) fn node(error: NodeCreationFailure, service: String, root: PathBuf) -> Self {
        match error {
            NodeCreationFailure::InsufficientPermissions => Self::PermissionDenied { service, root },
            NodeCreationFailure::InternalError
            | NodeCreationFailure::SystemCorrupted
            | NodeCreationFailure::UnableToGenerateUniqueNodeId => {
                Self::Internal { doing: "creating the bus's node", cause: format!("{error:?}") }
            }
        }
    }

    pub(crate) fn notifier(
        error: NotifierCreateError,
        service: String,
        setting: &'static str,
        slots: usize,
    ) -> Self {
        match error {
            NotifierCreateError::ExceedsMaxSupportedNotifiers => {
                Self::NoFreeSlot { service, what: "notifier", setting, slots }
            }
            other => Self::Internal { doing: "creating the notifier", cause: format!("{other:?}") },
        }
    }
}
