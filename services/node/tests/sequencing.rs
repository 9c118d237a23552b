//! Claiming a slot is sequencing: what a publisher is told is where its event stands, whoever publishes beside it.

mod support;

use std::sync::Arc;
use std::time::Duration;

use matchtape_node::{Node, NodeMistakes, NodeOptions, PipelineWait, PublishError};
use matchtape_schemas::{ProducerId, ProducerSequence, Sequence, Stage};
use matchtape_storage::sim::SimDisk;
use support::{order, small};

const PRODUCERS: u32 = 4;
const EVENTS: u64 = 20_000;

/// Publishes from several threads at once; says what differs between what they were told and what is on the tape.
fn difference(options: NodeOptions) -> Option<String> {
    let node = Node::open_on(Arc::new(SimDisk::new(1)), options, Vec::new()).unwrap();
    let told: Vec<(ProducerId, Vec<Sequence>)> = std::thread::scope(|scope| {
        let publishing: Vec<_> = (1..=PRODUCERS)
            .map(|producer| {
                let mut publisher = node.publisher(ProducerId(producer)).unwrap();
                scope.spawn(move || {
                    let mut told = Vec::new();
                    for number in 1..=EVENTS {
                        loop {
                            match publisher.publish(&order(number)) {
                                Ok(published) => break told.push(published.sequence()),
                                Err(PublishError::WouldBlock) => publisher.wait_for_room(1).unwrap(),
                                Err(error) => panic!("{error}"),
                            }
                        }
                    }
                    (publisher.producer(), told)
                })
            })
            .collect();
        publishing.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let last = node.watermarks().accepted;
    assert_eq!(last.get(), 1 + u64::from(PRODUCERS) * EVENTS, "the epoch's start and every event once");
    node.wait(last, Stage::Visible).unwrap();
    let reader = node.reader();
    for (producer, told) in told {
        for (number, sequence) in (1..).zip(told) {
            let found = reader.event(sequence).unwrap();
            let found = found.map(|event| {
                let header = event.event().header();
                (header.producer, header.producer_sequence)
            });
            if found != Some((producer, ProducerSequence(number))) {
                return Some(format!(
                    "producer {producer} was told that its event {number} is at {sequence}: {found:?} is there"
                ));
            }
        }
    }
    None
}

#[test]
fn what_a_publisher_is_told_is_where_its_event_stands() {
    // The pipeline's thread frames, or who publishes, in turn.
    let spin = Duration::from_micros(50);
    for wait in [
        PipelineWait::Adaptive { spin },
        PipelineWait::Adaptive { spin: Duration::ZERO },
        PipelineWait::Nap { spin, nap: spin },
        PipelineWait::Spin,
    ] {
        assert_eq!(difference(NodeOptions { wait, ..small() }), None, "{wait:?}");
    }
}

#[test]
fn negative_control_a_sequence_assigned_outside_the_writers_order_is_noticed() {
    let mistakes = NodeMistakes { sequence_outside_the_claim: true };
    // Two threads have to meet inside a few nanoseconds: with 80 000 tries they do, on any machine with two cores; on a
    // busy one it may take another run.
    let found = (0..200).find_map(|_| difference(NodeOptions { mistakes, ..small() }));
    println!("{}", found.expect("the mistake went unnoticed"));
}
