//! The records of a consumer: what is written is read back, and nothing else is taken for one.

use std::time::Duration;

use matchtape_consumer::*;
use matchtape_schemas::{AcceptedTime, Epoch, EventTime, InstrumentId, KindMask, Sequence};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;

fn definition() -> impl Strategy<Value = Definition> {
    let deliver = prop_oneof![
        Just(DeliverPolicy::All),
        Just(DeliverPolicy::Last),
        Just(DeliverPolicy::LastPerInstrument),
        Just(DeliverPolicy::New),
        (0..1u64 << 60).prop_map(|at| DeliverPolicy::ByStartSequence(Sequence(at))),
        any::<i64>().prop_map(|at| DeliverPolicy::ByStartTime(EventTime(at))),
    ];
    let wait = (1_000_000u64..1 << 50).prop_map(Duration::from_nanos);
    let filter = (1u64.., vec(any::<u32>(), 0..20));
    let limits = (proptest::option::of(8u32..), 1u32..=MAX_ACK_PENDING_MAX, 1u16..=MEMBERS_MAX);
    let ack = prop_oneof![Just(AckPolicy::None), Just(AckPolicy::Explicit)];
    (deliver, filter, ack, (wait.clone(), wait.clone(), vec(wait, 0..8)), limits, "[ -~äöü]{0,60}").prop_map(
        |(deliver, (kinds, instruments), ack, (ack_wait, member_timeout, backoff), limits, description)| {
            let (max_deliver, max_ack_pending, members_max) = limits;
            let instruments = instruments.into_iter().map(InstrumentId).collect();
            Definition {
                deliver,
                filter: ConsumerFilter { kinds: KindMask(kinds), instruments },
                ack,
                ack_wait,
                backoff,
                max_deliver,
                max_ack_pending,
                members_max,
                member_timeout,
                description,
            }
            .checked()
            .expect("within the limits")
        },
    )
}

fn state() -> impl Strategy<Value = State> {
    let heads =
        ((any::<u64>(), any::<i64>()), 1u64..1000, 0u64..1 << 40, any::<u64>(), 0u64..1 << 40, 0u64..2000);
    let pending = btree_map(0u64..100_000, any::<(u32, u32, u32, u32)>(), 0..300);
    (heads, pending, btree_set(0u64..100_000, 0..40)).prop_map(|(heads, pending, cuts)| {
        let ((epoch, recorded_at), first, initial, delivered, reserved, beyond) = heads;
        let pending =
            pending.into_iter().map(|(at, (instrument, deliveries, forgiven, due_in_ms))| PendingState {
                sequence: Sequence(first + at),
                instrument: InstrumentId(instrument),
                deliveries,
                forgiven: forgiven.min(deliveries),
                due_in_ms,
            });
        let cuts: Vec<u64> = cuts.into_iter().collect();
        let lost =
            cuts.chunks_exact(2).map(|pair| (Sequence(first + pair[0]), Sequence(first + pair[1] - 1)));
        State {
            epoch: Epoch(epoch),
            recorded_at: AcceptedTime(recorded_at),
            first: Sequence(first),
            initial_through: Sequence(initial),
            next: Sequence(first + 100_000 + beyond),
            delivered,
            reserved_through: Sequence(reserved),
            pending: pending.collect(),
            lost: lost.collect(),
        }
    })
}

fn parked() -> impl Strategy<Value = Vec<Parked>> {
    btree_map(1u64.., (any::<u32>(), any::<u32>(), any::<i64>(), any::<bool>()), 0..100).prop_map(|all| {
        let one = |(sequence, (instrument, deliveries, at, expired))| Parked {
            sequence: Sequence(sequence),
            instrument: InstrumentId(instrument),
            deliveries,
            at: AcceptedTime(at),
            reason: if expired { ParkReason::Expired } else { ParkReason::Refused },
        };
        all.into_iter().map(one).collect()
    })
}

/// Whoever reads `bytes` with one byte changed or cut off gets an error or something that writes the very same bytes.
fn is_strict<T>(
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> Option<T>,
    encode: impl Fn(&T) -> Vec<u8>,
    at: usize,
    change: u8,
) {
    for length in [at % bytes.len(), bytes.len() - 1] {
        assert!(decode(&bytes[..length]).is_none(), "cut to {length} of {} bytes", bytes.len());
    }
    let mut longer = bytes.to_vec();
    longer.push(change);
    assert!(decode(&longer).is_none(), "one byte more");
    let mut changed = bytes.to_vec();
    changed[at % bytes.len()] ^= change.max(1);
    if let Some(other) = decode(&changed) {
        assert_eq!(encode(&other), changed);
    }
}

proptest! {
    #[test]
    fn definitions_are_read_back_and_damage_is_refused(sound in definition(), at: usize, change: u8) {
        let bytes = sound.encode();
        prop_assert_eq!(Definition::decode(&bytes), Ok(sound));
        is_strict(&bytes, |bytes| Definition::decode(bytes).ok(), Definition::encode, at, change);
    }

    #[test]
    fn states_are_read_back_and_damage_is_refused(sound in state(), at: usize, change: u8) {
        let bytes = sound.encode();
        prop_assert_eq!(State::decode(&bytes), Ok(sound));
        is_strict(&bytes, |bytes| State::decode(bytes).ok(), State::encode, at, change);
    }

    #[test]
    fn parked_events_are_read_back_and_damage_is_refused(sound in parked(), at: usize, change: u8) {
        let encode = |parked: &Vec<Parked>| encode_parked(parked.iter());
        let bytes = encode(&sound);
        prop_assert_eq!(decode_parked(&bytes), Ok(sound));
        is_strict(&bytes, |bytes| decode_parked(bytes).ok(), encode, at, change);
    }

    #[test]
    fn no_bytes_at_all_make_reading_panic(bytes in vec(any::<u8>(), 0..300)) {
        let mut versioned = bytes;
        for version in [1, 2] {
            versioned.splice(0..2.min(versioned.len()), [version, 0]);
            let _ = (Definition::decode(&versioned), State::decode(&versioned), decode_parked(&versioned));
        }
    }
}

#[test]
fn states_of_the_version_without_times_are_read() {
    let mut bytes = vec![1, 0];
    for word in [3u64, 1, 0, 9, 5, 40] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.extend_from_slice(&[1, 0, 0, 0]);
    bytes.extend_from_slice(&7u64.to_le_bytes());
    bytes.extend_from_slice(&[8, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0]);
    bytes.extend_from_slice(&[0; 4]);
    let pending = PendingState {
        sequence: Sequence(7),
        instrument: InstrumentId(8),
        deliveries: 2,
        forgiven: 1,
        due_in_ms: 0,
    };
    let state = State {
        epoch: Epoch(3),
        first: Sequence(1),
        next: Sequence(9),
        delivered: 5,
        reserved_through: Sequence(40),
        pending: vec![pending],
        ..State::default()
    };
    assert_eq!(State::decode(&bytes), Ok(state));
    bytes[0] = 3;
    let refused = State::decode(&bytes).unwrap_err().to_string();
    assert!(refused.contains("version 3, this release reads 1 to 2"), "{refused}");
}
