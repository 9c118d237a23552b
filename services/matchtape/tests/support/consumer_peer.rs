//! A consumer that stores its position together with its effect, in a process of its own, to be killed.
//!
//! The effect is a count and a sum over the sequences; position and effect are one file, replaced by a rename. Whatever
//! comes again after a kill is at or below the stored position, and has its effect already.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use matchtape::consumers::Member;
use matchtape::server::Server;
use matchtape_client::consumers::{Acknowledgement, ConsumerItem};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, url, consumer, file] = arguments.as_slice() else { panic!("URL CONSUMER FILE") };
    let server = Server::new(url).expect("an address");
    let (consumer, name) = (consumer.parse().expect("a name"), "peer".parse().expect("a name"));
    let mut member = Member::new(&server, &consumer, &name);
    let (stop, mut notice) = (AtomicBool::new(false), |text: &str| eprintln!("{text}"));
    let file = Path::new(file);
    let stored = fs::read_to_string(file).unwrap_or_default();
    let mut numbers = stored.split(' ').map(|number| number.parse::<u64>().unwrap_or(0));
    let [mut position, mut count, mut sum] = [0; 3].map(|_: u64| numbers.next().unwrap_or(0));
    loop {
        let items = member.next(500, Duration::from_secs(1), &stop, &mut notice).expect("events");
        let (before, mut given) = (position, None);
        for item in items {
            let ConsumerItem::Delivery(delivery) = item else { panic!("{item:?}") };
            let sequence = delivery.event.sequence.get();
            given = Some(sequence);
            if sequence <= position {
                assert!(delivery.redelivered, "{sequence} came twice and is not marked");
                continue;
            }
            (position, count) = (sequence, count + 1);
            sum = sum.wrapping_mul(31).wrapping_add(sequence);
        }
        if position > before {
            let new = file.with_extension("new");
            fs::write(&new, format!("{position} {count} {sum}")).expect("a disk that works");
            fs::rename(&new, file).expect("a disk that works");
        }
        println!("{position}");
        // What was given, not the stored position: a node that was killed may have to catch up with that first.
        if let Some(given) = given {
            let said = Acknowledgement { ack: vec![given], ..Acknowledgement::default() };
            member.acknowledge(&said, &stop, &mut notice).expect("acknowledged");
        }
    }
}
