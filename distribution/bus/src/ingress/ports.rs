//! The iceoryx2 services of the way in, with every setting stated. The node creates; producers only open.
//!
//! `ingress` carries requests, every producer's to the one node, and is never overwritten: what does not fit is not sent.
//! `ingress-replies` carries the node's word to all producers, and only the latest counts.

use iceoryx2::node::Node;
use iceoryx2::prelude::{PortFactory as _, ServiceName, ipc};
use iceoryx2::service::builder::event::EventOpenError;
use iceoryx2::service::builder::publish_subscribe::PublishSubscribeOpenOrCreateError;
use iceoryx2::service::port_factory::publish_subscribe;
use matchtape_schemas::ProducerId;

use super::config::{IngressConfig, NODE_SLOTS, REPLIES_BORROWED, REPLIES_BUFFER, REQUESTS_BORROWED};
use super::message::{INGRESS_FORMAT, ReplyHeader, RequestHeader, SessionState};
use crate::block::Block;
use crate::config::{HISTORY_SAMPLES, WakeUp};
use crate::error::BusError;
use crate::name::BusName;
use crate::presence::Presence;
use crate::service::{self, Errors, INGRESS_FORMAT_KEY, Own, Settings, WakeFactory};

pub(crate) const REQUESTS: &str = "ingress";
pub(crate) const REPLIES: &str = "ingress-replies";

/// What the sizes of both follow from: a producer has a publisher of one and a subscriber of the other.
pub(crate) const PRODUCER_SLOTS: &str = "ingress.producers_max or producers_spare";
const SETTINGS: Settings =
    Settings { subscribers: PRODUCER_SLOTS, publishers: PRODUCER_SLOTS, buffer: "ingress.queue_samples" };

pub(crate) type RequestFactory = publish_subscribe::PortFactory<ipc::Service, [Block], RequestHeader>;
pub(crate) type ReplyFactory = publish_subscribe::PortFactory<ipc::Service, [SessionState], ReplyHeader>;

/// What a producer's port is called, by which the node knows that a process is that producer before it has said so.
pub(crate) fn producer_port_name(producer: ProducerId) -> String {
    format!("producer {producer}")
}

/// Both services, their wake-ups where there are any, and the node of iceoryx2 they belong to.
pub(crate) struct Opened {
    pub requests: RequestFactory,
    pub replies: ReplyFactory,
    pub wake_node: Option<WakeFactory<Own>>,
    pub wake_producers: Option<WakeFactory<Own>>,
    pub node: Node<ipc::Service>,
    pub presence: Presence,
}

/// Opens the services, or creates them with the sizes of `config`.
pub(crate) fn create(name: &BusName, config: &IngressConfig) -> Result<Opened, BusError> {
    create_with_format(name, config, INGRESS_FORMAT)
}

fn create_with_format(name: &BusName, config: &IngressConfig, format: u32) -> Result<Opened, BusError> {
    let slots = config.participant_slots();
    let errors = |service| Errors { name, service, slots, format, settings: &SETTINGS };
    let (presence, node) = service::node::<Own>(name, REQUESTS)?;
    let (requests_name, replies_name) = (name.service_name(REQUESTS)?, name.service_name(REPLIES)?);
    let producers = config.producer_slots();
    // Wake-ups first: whoever finds the samples finds them too.
    let wake = |service_name, notifiers, listeners, service| match config.wake_up {
        WakeUp::BusyPoll => Ok(None),
        WakeUp::Event => {
            service::create_wake_ups(&node, service_name, notifiers, listeners, &errors(service)).map(Some)
        }
    };
    let wake_node = wake(&requests_name, producers, NODE_SLOTS, REQUESTS)?;
    let wake_producers = wake(&replies_name, NODE_SLOTS, producers, REPLIES)?;
    let format = service::required_format(INGRESS_FORMAT_KEY, format)?;
    let opened = |service, error| match error {
        PublishSubscribeOpenOrCreateError::PublishSubscribeOpenError(error) => errors(service).open(error),
        PublishSubscribeOpenOrCreateError::PublishSubscribeCreateError(error) => {
            errors(service).create(error)
        }
        PublishSubscribeOpenOrCreateError::SystemInFlux => {
            errors(service).busy("opened and closed repeatedly")
        }
    };
    let replies = node
        .service_builder(&replies_name)
        .publish_subscribe::<[SessionState]>()
        .user_header::<ReplyHeader>()
        .max_publishers(NODE_SLOTS)
        .max_subscribers(producers)
        .max_nodes(slots)
        .subscriber_max_buffer_size(REPLIES_BUFFER)
        .subscriber_max_borrowed_samples(REPLIES_BORROWED)
        .history_size(HISTORY_SAMPLES)
        // The node never waits for a producer.
        .enable_safe_overflow(true)
        .open_or_create_with_attributes(&format)
        .map_err(|error| opened(REPLIES, error))?;
    let requests = node
        .service_builder(&requests_name)
        .publish_subscribe::<[Block]>()
        .user_header::<RequestHeader>()
        .max_publishers(producers)
        .max_subscribers(NODE_SLOTS)
        .max_nodes(slots)
        .subscriber_max_buffer_size(config.queue_samples)
        .subscriber_max_borrowed_samples(REQUESTS_BORROWED)
        .history_size(HISTORY_SAMPLES)
        // Nothing of a producer is ever overwritten: a full queue is its back-pressure.
        .enable_safe_overflow(false)
        .open_or_create_with_attributes(&format)
        .map_err(|error| opened(REQUESTS, error))?;
    Ok(Opened { requests, replies, wake_node, wake_producers, node, presence })
}

/// Opens what a node has created.
pub(crate) fn open(name: &BusName) -> Result<Opened, BusError> {
    let errors = |service| Errors { name, service, slots: 0, format: INGRESS_FORMAT, settings: &SETTINGS };
    let (presence, node) = service::node::<Own>(name, REQUESTS)?;
    let (requests_name, replies_name) = (name.service_name(REQUESTS)?, name.service_name(REPLIES)?);
    let format = service::required_format(INGRESS_FORMAT_KEY, INGRESS_FORMAT)?;
    // The last that the node creates first: with it, the others are there.
    let requests = node
        .service_builder(&requests_name)
        .publish_subscribe::<[Block]>()
        .user_header::<RequestHeader>()
        .open_with_attributes(&format)
        .map_err(|error| errors(REQUESTS).open(error))?;
    let replies = node
        .service_builder(&replies_name)
        .publish_subscribe::<[SessionState]>()
        .user_header::<ReplyHeader>()
        .open_with_attributes(&format)
        .map_err(|error| errors(REPLIES).open(error))?;
    let wake = |service_name: &ServiceName, service| match node.service_builder(service_name).event().open() {
        Ok(wake) => Ok(Some(wake)),
        // A node that never sleeps wakes nobody either.
        Err(EventOpenError::DoesNotExist) => Ok(None),
        Err(error) => Err(errors(service).open_wake(error)),
    };
    let wake_node = wake(&requests_name, REQUESTS)?;
    let wake_producers = wake(&replies_name, REPLIES)?;
    Ok(Opened { requests, replies, wake_node, wake_producers, node, presence })
}

/// Samples a producer may be ahead, as the running node states it.
pub(crate) fn queue_samples(requests: &RequestFactory) -> usize {
    requests.static_config().subscriber_max_buffer_size()
}

#[cfg(test)]
mod tests {
    use matchtape_schemas::TapeId;

    use super::*;
    use crate::name::TestName;

    #[test]
    fn a_way_in_of_another_format_is_refused_with_both_versions() {
        let test = TestName::new("inform", TapeId(1));
        let config = IngressConfig { producers_max: 1, producers_spare: 1, ..IngressConfig::default() };
        let newer = create_with_format(&test.name, &config, INGRESS_FORMAT + 1).expect("a newer node");
        for error in [create(&test.name, &config).err(), open(&test.name).err()] {
            match error {
                Some(BusError::FormatVersion { found, expected: INGRESS_FORMAT, .. }) => {
                    assert_eq!(found, (INGRESS_FORMAT + 1).to_string());
                }
                other => panic!("{other:?}"),
            }
        }
        drop(newer);
    }
}
