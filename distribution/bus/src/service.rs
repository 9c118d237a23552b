//! Creating and opening the iceoryx2 services behind a bus, with every setting stated.
//!
//! The publisher creates; subscribers only open, so sizes have one owner. A service outlives its publisher as long as
//! a subscriber lives, which is why a restarted publisher opens what it finds.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

use iceoryx2::config::Config;
use iceoryx2::node::{Node, NodeBuilder};
use iceoryx2::port::listener::{Listener, ListenerWaitError};
use iceoryx2::prelude::{
    AttributeVerifier, FileDescriptorBased as _, MessagingPattern, SemanticString, Service, ServiceName,
    SignalHandlingMode, ipc,
};
use iceoryx2::service::attribute::{AttributeKey, AttributeValue};
use iceoryx2::service::builder::event::{EventCreateError, EventOpenError, EventOpenOrCreateError};
use iceoryx2::service::builder::publish_subscribe::{
    PublishSubscribeCreateError, PublishSubscribeOpenError, PublishSubscribeOpenOrCreateError,
};
use iceoryx2::service::port_factory::PortFactory as _;
use iceoryx2::service::port_factory::{event, publish_subscribe};

use crate::block::Block;
use crate::config::{ATTACH_BYTES, BusConfig, HISTORY_SAMPLES, WakeUp, shared_memory_available};
use crate::error::BusError;
use crate::header::{FORMAT_VERSION, SampleHeader};
use crate::name::{BusName, BusService};
use crate::presence::{self, Presence};

const FORMAT_KEY: &[u8] = b"matchtape.bus.format";
/// In nanoseconds: how often a sign of life comes, for those who wait for one.
const HEARTBEAT_KEY: &[u8] = b"matchtape.bus.heartbeat_interval";
/// The way in has a format of its own.
pub(crate) const INGRESS_FORMAT_KEY: &[u8] = b"matchtape.ingress.format";

/// There is one reason to wake up, so one event id.
const EVENT_ID_MAX: usize = 0;

/// The kind of service that all ports are of: for one thread at a time, without locks. (`ipc_threadsafe::Service` takes a
/// mutex in every call of a port.)
pub(crate) type Own = ipc::Service;

pub(crate) type SampleFactory<S> = publish_subscribe::PortFactory<S, [Block], SampleHeader>;
pub(crate) type WakeFactory<S> = event::PortFactory<S>;

/// An open service and the node it belongs to.
pub(crate) struct Opened<S: Service> {
    pub samples: SampleFactory<S>,
    pub wake: Option<WakeFactory<S>>,
    /// [`BusConfig::heartbeat_interval`] of who created it.
    pub heartbeat_interval: Duration,
    pub node: Node<S>,
}

/// Opens the service, or creates it with the sizes of `config`.
pub(crate) fn create(
    name: &BusName,
    service: BusService,
    config: &BusConfig,
) -> Result<(Presence, Opened<Own>), BusError> {
    create_with_format(name, service, config, FORMAT_VERSION)
}

fn create_with_format(
    name: &BusName,
    service: BusService,
    config: &BusConfig,
    format: u32,
) -> Result<(Presence, Opened<Own>), BusError> {
    let errors = Errors {
        name,
        service: service.as_str(),
        slots: config.node_slots(),
        format,
        settings: &BUS_SETTINGS,
    };
    let (presence, node) = node::<Own>(name, service.as_str())?;
    let service_name = name.service_name(service.as_str())?;
    // Wake-ups first: whoever finds the samples finds them too.
    let wake = match config.wake_up {
        WakeUp::BusyPoll => {
            refuse_sleepers(&node, &service_name, &errors)?;
            None
        }
        WakeUp::Event => {
            let (notifiers, listeners) = (config.publisher_slots(), config.subscriber_slots());
            Some(create_wake_ups(&node, &service_name, notifiers, listeners, &errors)?)
        }
    };
    let heartbeat = attribute(&config.heartbeat_interval.as_nanos())?;
    let attributes = required_format(FORMAT_KEY, format)?
        .require(&key(HEARTBEAT_KEY)?, &heartbeat)
        .map_err(|error| attribute_error(&error))?;
    let samples = node
        .service_builder(&service_name)
        // Blocks are aligned to 16, as records need it: no further alignment is asked for (see `Block`).
        .publish_subscribe::<[Block]>()
        .user_header::<SampleHeader>()
        .max_publishers(config.publisher_slots())
        .max_subscribers(config.subscriber_slots())
        .max_nodes(config.node_slots())
        .subscriber_max_buffer_size(config.buffer_samples)
        .subscriber_max_borrowed_samples(config.borrowed_samples)
        .history_size(HISTORY_SAMPLES)
        // The publisher never waits for a subscriber: the oldest sample makes room, its reader finds the gap.
        .enable_safe_overflow(true)
        .open_or_create_with_attributes(&attributes)
        .map_err(|error| match error {
            PublishSubscribeOpenOrCreateError::PublishSubscribeOpenError(error) => errors.open(error),
            PublishSubscribeOpenOrCreateError::PublishSubscribeCreateError(error) => errors.create(error),
            PublishSubscribeOpenOrCreateError::SystemInFlux => errors.busy("opened and closed repeatedly"),
        })?;
    Ok((presence, Opened { samples, wake, heartbeat_interval: config.heartbeat_interval, node }))
}

/// Sleeps until a listener is notified, at most for `limit`. Returns at once when there is less than a microsecond left:
/// iceoryx2 would hand the system a timeout of zero, which means for ever.
pub(crate) fn sleep(listener: &Listener<ipc::Service>, limit: Duration) -> Result<(), ListenerWaitError> {
    if limit < Duration::from_micros(1) {
        return Ok(());
    }
    match listener.timed_wait(|_| (), limit) {
        Ok(_) | Err(ListenerWaitError::InterruptSignal) => Ok(()),
        Err(error) => Err(error),
    }
}

/// What a listener sleeps on, to sleep on it together with something else.
pub(crate) fn socket(listener: &Listener<ipc::Service>) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is the listener's, which outlives this borrow and keeps it open.
    unsafe { BorrowedFd::borrow_raw(listener.file_descriptor().native_handle()) }
}

/// The wake-ups of a service. `errors.slots` is also the number of its nodes.
pub(crate) fn create_wake_ups<S: Service>(
    node: &Node<S>,
    service_name: &ServiceName,
    notifiers: usize,
    listeners: usize,
    errors: &Errors<'_>,
) -> Result<WakeFactory<S>, BusError> {
    node.service_builder(service_name)
        .event()
        .max_notifiers(notifiers)
        .max_listeners(listeners)
        .max_nodes(errors.slots)
        .event_id_max_value(EVENT_ID_MAX)
        // Silence is judged by heartbeats, which also tell how far the tape is.
        .disable_deadline()
        // A publisher that comes, goes or dies shows in its samples, or in their absence: no reason to wake anybody.
        .disable_notifier_created_event()
        .disable_notifier_dropped_event()
        .disable_notifier_dead_event()
        .open_or_create()
        .map_err(|error| match error {
            EventOpenOrCreateError::EventOpenError(error) => errors.open_wake(error),
            EventOpenOrCreateError::EventCreateError(error) => errors.create_wake(error),
            EventOpenOrCreateError::SystemInFlux => errors.busy("opened and closed repeatedly"),
        })
}

/// Whoever sleeps on the wake-ups of an earlier publisher would sleep on.
fn refuse_sleepers(
    node: &Node<Own>,
    service_name: &ServiceName,
    errors: &Errors<'_>,
) -> Result<(), BusError> {
    match node.service_builder(service_name).event().open() {
        Ok(wake) if wake.dynamic_config().number_of_listeners() > 0 => {
            Err(errors.config_changed("wake_up was event, and there are subscribers that sleep"))
        }
        Ok(_) | Err(EventOpenError::DoesNotExist) => Ok(()),
        Err(error) => Err(errors.open_wake(error)),
    }
}

/// Opens what a publisher has created, with the wake-up service only where the subscriber wants to sleep.
pub(crate) fn open(
    name: &BusName,
    service: BusService,
    wake_up: WakeUp,
) -> Result<(Presence, Opened<Own>), BusError> {
    let errors =
        Errors { name, service: service.as_str(), slots: 0, format: FORMAT_VERSION, settings: &BUS_SETTINGS };
    let (presence, node) = node::<Own>(name, service.as_str())?;
    let service_name = name.service_name(service.as_str())?;
    let samples = node
        .service_builder(&service_name)
        .publish_subscribe::<[Block]>()
        .user_header::<SampleHeader>()
        .open_with_attributes(&required_format(FORMAT_KEY, FORMAT_VERSION)?)
        .map_err(|error| errors.open(error))?;
    let heartbeat = samples.attributes().key_value(&key(HEARTBEAT_KEY)?, 0);
    let heartbeat_interval = heartbeat
        .and_then(|value| std::str::from_utf8(value.as_bytes()).ok()?.parse().ok())
        .filter(|nanoseconds| *nanoseconds > 0)
        .map(Duration::from_nanos)
        .ok_or_else(|| errors.corrupted(&"it does not say how often a sign of life comes"))?;
    let wake = match wake_up {
        WakeUp::BusyPoll => None,
        WakeUp::Event => match node.service_builder(&service_name).event().open() {
            Ok(wake) => Some(wake),
            // A publisher makes the wake-ups before the samples and drops them after: without either it has just left.
            Err(EventOpenError::DoesNotExist) if samples.dynamic_config().number_of_publishers() == 0 => {
                return Err(BusError::NotFound {
                    service: name.service_text(service),
                    root: name.root().into(),
                });
            }
            Err(EventOpenError::DoesNotExist) => {
                return Err(BusError::NoWakeUps { service: name.service_text(service) });
            }
            Err(error) => return Err(errors.open_wake(error)),
        },
    };
    Ok((presence, Opened { samples, wake, heartbeat_interval, node }))
}

/// A node of iceoryx2 for one port, which keeps the presence for as long as it has the node. `service` is for messages.
pub(crate) fn node<S: Service>(name: &BusName, service: &str) -> Result<(Presence, Node<S>), BusError> {
    check_root(name, service)?;
    // Whether it can be used at all, in words; how much room there is when what is nobody's is gone.
    shared_memory_available()?;
    let presence = Presence::enter(name)?;
    let config = name.iceoryx_config()?;
    // Behind those who were killed while others were there.
    presence::remove_half_made(name, &config);
    check_room_to_attach(name, service, shared_memory_available()?)?;
    // The process's own signal handling stays its own.
    let node = NodeBuilder::new()
        .config(&config)
        .signal_handling_mode(SignalHandlingMode::Disabled)
        .create::<S>()
        .map_err(|error| BusError::node(error, name.text(service), name.root().into()))?;
    Ok((presence, node))
}

fn check_room_to_attach(name: &BusName, service: &str, available_bytes: u64) -> Result<(), BusError> {
    if available_bytes >= ATTACH_BYTES {
        return Ok(());
    }
    Err(BusError::NoRoomToAttach {
        service: name.text(service),
        required_bytes: ATTACH_BYTES,
        available_bytes,
    })
}

/// iceoryx2 reports a folder it may not write to as an internal error, so this looks first: at the root, and at what the
/// first who met there has made in it.
fn check_root(name: &BusName, service: &str) -> Result<(), BusError> {
    let root = name.root();
    let config = name.iceoryx_config()?;
    let usable = |folder: &Path| {
        let access = rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
        rustix::fs::access(folder, access).map_err(std::io::Error::from)
    };
    let below = |folder: &iceoryx2::prelude::Path| match usable(&root.join(folder.to_string())) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        found => found,
    };
    let checked = std::fs::create_dir_all(root)
        .and_then(|()| usable(root))
        .and_then(|()| below(&config.global.node.directory))
        .and_then(|()| below(&config.global.service.directory));
    checked.map_err(|error| match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            BusError::PermissionDenied { service: name.text(service), root: root.into() }
        }
        _ => BusError::Internal {
            doing: "creating the bus's folder",
            cause: format!("{}: {error}", root.display()),
        },
    })
}

fn attribute_error(error: &dyn std::fmt::Debug) -> BusError {
    BusError::Internal { doing: "stating what the service is like", cause: format!("{error:?}") }
}

fn key(name: &[u8]) -> Result<AttributeKey, BusError> {
    AttributeKey::new(name).map_err(|error| attribute_error(&error))
}

fn attribute(value: &impl std::fmt::Display) -> Result<AttributeValue, BusError> {
    AttributeValue::new(value.to_string().as_bytes()).map_err(|error| attribute_error(&error))
}

/// What a service of this format states under `key`, and its openers ask for.
pub(crate) fn required_format(name: &[u8], format: u32) -> Result<AttributeVerifier, BusError> {
    AttributeVerifier::new()
        .require(&key(name)?, &attribute(&format)?)
        .map_err(|error| attribute_error(&error))
}

/// The format a running service states, for the message about it.
fn format_found(name: &BusName, service: &str, config: &Config) -> Option<String> {
    let service_name = name.service_name(service).ok()?;
    let details = ipc::Service::details(&service_name, config, MessagingPattern::PublishSubscribe).ok()??;
    let attributes = details.static_details.attributes();
    let value =
        [FORMAT_KEY, INGRESS_FORMAT_KEY].iter().find_map(|name| attributes.key_value(&key(name).ok()?, 0))?;
    Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// Turns iceoryx2's reports into errors that say what to do.
pub(crate) struct Errors<'a> {
    pub name: &'a BusName,
    /// The service's last word.
    pub service: &'static str,
    pub slots: usize,
    /// The format its openers ask for.
    pub format: u32,
    pub settings: &'static Settings,
}

/// The settings that the sizes of a service follow from, for messages.
pub(crate) struct Settings {
    pub subscribers: &'static str,
    pub publishers: &'static str,
    pub buffer: &'static str,
}

pub(crate) const BUS_SETTINGS: Settings = Settings {
    subscribers: "subscribers_max or subscribers_spare",
    publishers: "publishers_spare",
    buffer: "buffer_samples",
};

impl Errors<'_> {
    pub(crate) fn text(&self) -> String {
        self.name.text(self.service)
    }

    fn permission(&self) -> BusError {
        BusError::PermissionDenied { service: self.text(), root: self.name.root().into() }
    }

    pub(crate) fn busy(&self, cause: &str) -> BusError {
        BusError::Busy { service: self.text(), cause: cause.into() }
    }

    fn config_changed(&self, reason: &str) -> BusError {
        BusError::ConfigChanged { service: self.text(), reason: reason.into() }
    }

    fn larger(&self, setting: &str) -> BusError {
        self.config_changed(&format!("{setting} is larger now"))
    }

    fn no_node_slot(&self) -> BusError {
        BusError::NoFreeSlot {
            service: self.text(),
            what: "node",
            setting: self.settings.subscribers,
            slots: self.slots,
        }
    }

    pub(crate) fn corrupted(&self, cause: &dyn std::fmt::Debug) -> BusError {
        BusError::Corrupted {
            service: self.text(),
            cause: format!("{cause:?}"),
            root: self.name.root().into(),
            prefix: self.name.prefix(),
        }
    }

    fn format(&self) -> BusError {
        let found =
            self.name.iceoryx_config().ok().and_then(|config| format_found(self.name, self.service, &config));
        if found.as_ref().is_some_and(|found| *found == self.format.to_string()) {
            // What else it states that openers may ask for.
            return self.config_changed("heartbeat_interval is another now");
        }
        BusError::FormatVersion {
            service: self.text(),
            found: found.unwrap_or_else(|| "unknown".into()),
            expected: self.format,
        }
    }

    pub(crate) fn internal(&self, cause: &dyn std::fmt::Debug) -> BusError {
        BusError::Internal { doing: "opening the bus", cause: format!("{cause:?}") }
    }

    pub(crate) fn open(&self, error: PublishSubscribeOpenError) -> BusError {
        use PublishSubscribeOpenError as E;
        match error {
            E::DoesNotExist => BusError::NotFound { service: self.text(), root: self.name.root().into() },
            E::InsufficientPermissions => self.permission(),
            E::VersionMismatch => BusError::IceoryxVersion { service: self.text() },
            E::IncompatibleTypes | E::IncompatibleAttributes | E::IncompatibleMessagingPattern => {
                self.format()
            }
            E::DoesNotSupportRequestedMinBufferSize => self.larger(self.settings.buffer),
            E::DoesNotSupportRequestedMinHistorySize => self.config_changed("its history is smaller"),
            E::DoesNotSupportRequestedMinSubscriberBorrowedSamples => self.larger("borrowed_samples"),
            E::DoesNotSupportRequestedAmountOfPublishers => self.larger(self.settings.publishers),
            E::DoesNotSupportRequestedAmountOfSubscribers => self.larger(self.settings.subscribers),
            E::DoesNotSupportRequestedAmountOfNodes => self.config_changed("there are more slots now"),
            E::IncompatibleOverflowBehavior => self.config_changed("its overflow behaviour differs"),
            E::ExceedsMaxNumberOfNodes => self.no_node_slot(),
            E::ServiceInCorruptedState => self.corrupted(&error),
            E::HangsInCreation | E::IsMarkedForDestruction | E::Interrupt => self.busy(&format!("{error:?}")),
            E::InternalFailure
            | E::UnableToCreateServiceTag
            | E::UnableToAcquireTypeDefinition
            | E::InvalidTypeDefinition => self.internal(&error),
        }
    }

    pub(crate) fn create(&self, error: PublishSubscribeCreateError) -> BusError {
        use PublishSubscribeCreateError as E;
        match error {
            E::InsufficientPermissions => self.permission(),
            E::ServiceInCorruptedState => self.corrupted(&error),
            E::AlreadyExists | E::IsBeingCreatedByAnotherInstance | E::HangsInCreation | E::Interrupt => {
                self.busy(&format!("{error:?}"))
            }
            E::SubscriberBufferMustBeLargerThanHistorySize
            | E::InternalFailure
            | E::UnableToCreateServiceTag
            | E::ServiceConfigCouldNotBeCreated
            | E::UnableToAcquireTypeDefinition
            | E::InvalidTypeDefinition
            | E::UnableToGenerateUniqueServiceId => self.internal(&error),
        }
    }

    pub(crate) fn open_wake(&self, error: EventOpenError) -> BusError {
        use EventOpenError as E;
        match error {
            E::DoesNotExist => BusError::NotFound { service: self.text(), root: self.name.root().into() },
            E::InsufficientPermissions => self.permission(),
            E::VersionMismatch => BusError::IceoryxVersion { service: self.text() },
            E::IncompatibleMessagingPattern | E::IncompatibleAttributes => self.format(),
            E::IncompatibleDeadline
            | E::IncompatibleNotifierCreatedEvent
            | E::IncompatibleNotifierDroppedEvent
            | E::IncompatibleNotifierDeadEvent
            | E::DoesNotSupportRequestedMaxEventId => self.config_changed("its wake-up events differ"),
            E::DoesNotSupportRequestedAmountOfNotifiers => self.larger(self.settings.publishers),
            E::DoesNotSupportRequestedAmountOfListeners => self.larger(self.settings.subscribers),
            E::DoesNotSupportRequestedAmountOfNodes => self.config_changed("there are more slots now"),
            E::ExceedsMaxNumberOfNodes => self.no_node_slot(),
            E::ServiceInCorruptedState => self.corrupted(&error),
            E::HangsInCreation | E::IsMarkedForDestruction | E::Interrupt => self.busy(&format!("{error:?}")),
            E::InternalFailure | E::UnableToCreateServiceTag => self.internal(&error),
        }
    }

    pub(crate) fn create_wake(&self, error: EventCreateError) -> BusError {
        use EventCreateError as E;
        match error {
            E::InsufficientPermissions => self.permission(),
            E::ServiceInCorruptedState => self.corrupted(&error),
            E::AlreadyExists | E::IsBeingCreatedByAnotherInstance | E::Interrupt => {
                self.busy(&format!("{error:?}"))
            }
            E::InternalFailure
            | E::UnableToCreateServiceTag
            | E::ServiceConfigCouldNotBeCreated
            | E::EventIdExceedsMaxSupportedValue
            | E::UnableToGenerateUniqueServiceId => self.internal(&error),
        }
    }
}

#[cfg(test)]
mod tests {
    use matchtape_schemas::TapeId;

    use super::*;
    use crate::name::TestName;

    #[test]
    fn a_bus_of_another_format_is_refused_with_both_versions() {
        let test = TestName::new("format", TapeId(1));
        let name = &test.name;
        let config = BusConfig { subscribers_max: 1, ..BusConfig::default() };
        let newer =
            create_with_format(name, BusService::Live, &config, FORMAT_VERSION + 1).expect("a newer bus");
        let attempts = [
            create(name, BusService::Live, &config).err(),
            open(name, BusService::Live, WakeUp::BusyPoll).err(),
        ];
        for error in attempts {
            match error {
                Some(BusError::FormatVersion { found, expected: FORMAT_VERSION, .. }) => {
                    assert_eq!(found, (FORMAT_VERSION + 1).to_string())
                }
                other => panic!("{other:?}"),
            }
        }
        drop(newer);
    }
}
