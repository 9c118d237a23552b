//! A consumer in a process of its own, to be killed.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use matchtape::consumers::Member;
use matchtape::server::Server;
use matchtape_client::consumers::{Acknowledgement, ConsumerItem};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["ledger", url, consumer, file] => {
            let server = Server::new(url).expect("an address");
            ledger(member(&server, consumer, "peer"), Path::new(file));
        }
        ["verdicts", url, consumer, name, seed] => {
            let server = Server::new(url).expect("an address");
            verdicts(
                member(&server, consumer, name),
                Random(seed.parse::<u64>().expect("a number") | 1 << 40),
            );
        }
        _ => panic!("ledger URL CONSUMER FILE, or verdicts URL CONSUMER MEMBER SEED"),
    }
}

fn member<'s>(server: &'s Server, consumer: &str, name: &str) -> Member<'s> {
    Member::new(server, &consumer.parse().expect("a name"), &name.parse().expect("a name"))
}

/// Stores its position together with its effect: a count and a sum over the sequences; position and effect are one file,
/// replaced by a rename. Whatever comes again after a kill is at or below the stored position, and has its effect already.
fn ledger(mut member: Member<'_>, file: &Path) {
    let (stop, mut notice) = (AtomicBool::new(false), |text: &str| eprintln!("{text}"));
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

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % limit
    }
}

/// Orders that are always refused, and those of which nothing is ever said.
const REFUSED: u64 = 2203;
const FORGOTTEN: u64 = 1999;

/// Judges events one by one, in no order, some at once and some much later.
fn verdicts(mut member: Member<'_>, mut random: Random) {
    let (stop, mut notice) = (AtomicBool::new(false), |text: &str| eprintln!("{text}"));
    // What it has; and whether it is refused in any case.
    let mut held: Vec<(u64, bool)> = Vec::new();
    loop {
        let wait = Duration::from_millis(if held.is_empty() { 500 } else { 0 });
        let batch = 1 + random.below(400) as u32;
        let items = member.next(batch, wait, &stop, &mut notice).expect("events");
        let nothing_came = items.is_empty();
        for item in items {
            let ConsumerItem::Delivery(delivery) = item else { continue };
            let order = delivery.event.order_id.map_or(1, |order| order.get());
            if order % FORGOTTEN != 0 {
                held.push((delivery.event.sequence.get(), order % REFUSED == 0));
            }
        }
        // Until the node gives no more, now and then.
        if !nothing_came && random.below(3) == 0 || held.is_empty() {
            continue;
        }
        let mut said = Acknowledgement {
            nak_delay_ms: [0, 0, 20, 100, 1000][random.below(5)],
            durable: random.below(8) == 0,
            ..Acknowledgement::default()
        };
        let mut kept = Vec::new();
        for _ in 0..held.len() - random.below(held.len()) {
            let (sequence, is_refused) = held.swap_remove(random.below(held.len()));
            match random.below(1000) {
                _ if is_refused => said.nak.push(sequence),
                0..40 if said.nak_delay_ms < 1000 || said.nak.is_empty() => said.nak.push(sequence),
                40..60 => said.term.push(sequence),
                60..100 => {
                    said.in_progress.push(sequence);
                    kept.push((sequence, false));
                }
                // Forgotten.
                100 => {}
                _ => said.ack.push(sequence),
            }
        }
        held.append(&mut kept);
        member.acknowledge(&said, &stop, &mut notice).expect("acknowledged");
    }
}
