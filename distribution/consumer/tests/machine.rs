//! What random schedules do not reach: groups that stick, a full list of parked events, a tape that lost its end.

use std::time::Duration;

use matchtape_consumer::*;
use matchtape_schemas::{AcceptedTime, Epoch, InstrumentId, Sequence};

const START: Duration = Duration::ZERO;

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn machine(definition: Definition) -> Machine {
    let definition = definition.checked().expect("sound");
    let mut machine = Machine::new(
        definition,
        &State::beginning(Epoch(1), Sequence(1), Sequence::ZERO),
        Vec::new(),
        AcceptedTime(1_000),
        MemberId::NOBODY,
    );
    let (state, _) = machine.record(Epoch(1), START);
    machine.recorded(state.reserved_through);
    machine
}

fn group(members_max: u16) -> Definition {
    Definition { ack: AckPolicy::Explicit, members_max, ..Definition::default() }
}

fn take(machine: &mut Machine, member: MemberId, sequence: u64, instrument: u32, now: Duration) -> bool {
    machine.take(member, Sequence(sequence), InstrumentId(instrument), now).is_some()
}

fn waiting_for(machine: &mut Machine, member: MemberId, now: Duration) -> Vec<(u64, u32)> {
    let due = machine.due(member, now, usize::MAX);
    let given = due.iter().map(|sequence| machine.redeliver(member, *sequence, now));
    given.map(|one| (one.sequence.get(), one.delivery_count)).collect()
}

#[test]
fn an_instrument_stays_with_its_member_and_goes_over_in_order_when_that_member_dies() {
    let mut machine = machine(group(2));
    let one = machine.attach(&"one".parse().unwrap(), false, START).unwrap();
    let two = machine.attach(&"two".parse().unwrap(), false, START).unwrap();
    assert!(take(&mut machine, one, 1, 7, START) && take(&mut machine, two, 2, 8, START));
    assert!(!take(&mut machine, two, 3, 7, START), "held for the member that has the instrument");
    assert!(take(&mut machine, two, 4, 9, START), "others go on");
    assert_eq!(waiting_for(&mut machine, two, START), []);
    assert_eq!(waiting_for(&mut machine, one, START), [(3, 1)]);
    assert!(!take(&mut machine, two, 5, 7, START));
    let names: Vec<String> =
        machine.info().members.iter().map(|m| format!("{}:{}", m.name, m.pending)).collect();
    assert_eq!(names, ["one:2", "two:2"]);
    let third = machine.attach(&"three".parse().unwrap(), false, START).unwrap_err();
    assert!(third.to_string().contains("2 of 2 members are attached (one, two)"), "{third}");
    machine.detach(one, START);
    assert_eq!(waiting_for(&mut machine, two, START), [(1, 2), (3, 2), (5, 1)]);
    assert_eq!(machine.floor(), Sequence::ZERO);
    for sequence in 1..=5 {
        assert_eq!(machine.ack(Sequence(sequence)), Ok(Acked { settled: 1 }));
    }
    assert_eq!(machine.floor(), Sequence(5));
    assert_eq!(machine.ack(Sequence(3)), Ok(Acked { settled: 0 }), "once is enough, twice does no harm");
}

#[test]
fn a_member_that_is_not_heard_of_is_given_up_and_one_that_hangs_loses_what_it_does_not_acknowledge() {
    let mut machine = machine(Definition { ack_wait: ms(50), member_timeout: ms(200), ..group(2) });
    let silent = machine.attach(&"silent".parse().unwrap(), true, START).unwrap();
    let other = machine.attach(&"other".parse().unwrap(), false, START).unwrap();
    assert!(take(&mut machine, silent, 1, 7, START));
    assert_eq!(machine.quiet_until(), Some(ms(50)));
    assert!(!machine.tick(ms(49)) && machine.tick(ms(50)));
    assert_eq!(waiting_for(&mut machine, other, ms(50)), [(1, 2)], "what ran out is anybody's");
    assert_eq!(machine.info().members.len(), 2);
    assert!(machine.tick(ms(200)));
    assert!(!machine.heard(silent, ms(200)) && machine.heard(other, ms(200)));
}

#[test]
fn what_is_refused_waits_for_its_delay_and_what_is_worked_on_gets_more_time() {
    let mut machine = machine(Definition { backoff: vec![ms(10), ms(100)], ..group(1) });
    let member = machine.attach(&"m".parse().unwrap(), false, START).unwrap();
    assert!(take(&mut machine, member, 1, 7, START) && take(&mut machine, member, 2, 8, START));
    machine.nak(Sequence(1), ms(30), START).unwrap();
    assert_eq!(machine.nak(Sequence(1), START, START), Err(AckError::Waiting { sequence: Sequence(1) }));
    assert!(!take(&mut machine, member, 3, 7, START), "not before the refused one of its instrument");
    machine.in_progress(Sequence(2), ms(8)).unwrap();
    assert_eq!(waiting_for(&mut machine, member, ms(17)), []);
    machine.tick(ms(17));
    assert_eq!(machine.info().out, 1, "its time began anew");
    machine.tick(ms(18));
    assert_eq!(waiting_for(&mut machine, member, ms(18)), [(2, 2)]);
    assert_eq!(waiting_for(&mut machine, member, ms(30)), [(1, 2), (3, 1)]);
    machine.tick(ms(117));
    assert_eq!(
        machine.info().out,
        2,
        "the second delivery has the second step; the first of event 3 ran out"
    );
    assert_eq!(machine.term(Sequence(2), ms(117)), Ok(Acked { settled: 1 }));
    let last = machine.advisories().last().unwrap().1.clone();
    assert_eq!(last, Advisory::Terminated { sequence: Sequence(2), deliveries: 2 });
}

#[test]
fn an_event_that_fails_as_often_as_allowed_is_parked_and_told_and_can_be_taken_back() {
    let mut machine = machine(Definition { max_deliver: Some(2), ..group(1) });
    let member = machine.attach(&"m".parse().unwrap(), false, START).unwrap();
    assert!(take(&mut machine, member, 1, 7, START) && take(&mut machine, member, 2, 7, START));
    machine.nak(Sequence(1), START, START).unwrap();
    assert_eq!(waiting_for(&mut machine, member, START), [(1, 2)]);
    machine.nak(Sequence(1), START, ms(3)).unwrap();
    let parked: Vec<Parked> = machine.parked().copied().collect();
    let expected = Parked {
        sequence: Sequence(1),
        instrument: InstrumentId(7),
        deliveries: 2,
        at: AcceptedTime(3_001_000),
        reason: ParkReason::Refused,
    };
    assert_eq!(parked, [expected]);
    let told = Advisory::Parked { sequence: Sequence(1), deliveries: 2, reason: ParkReason::Refused };
    assert_eq!((machine.tell(member), machine.tell(member)), (Some(told), None));
    assert_eq!(
        (machine.floor(), machine.needed_from()),
        (Sequence(1), Sequence(1)),
        "still wanted from the tape"
    );
    machine.ack(Sequence(2)).unwrap();
    assert_eq!(machine.unpark(Some(Sequence(9)), ms(4)), 0);
    assert_eq!(machine.unpark(None, ms(4)), 1);
    assert_eq!(waiting_for(&mut machine, member, ms(4)), [(1, 3)]);
    machine.nak(Sequence(1), START, ms(4)).unwrap();
    assert_eq!(waiting_for(&mut machine, member, ms(4)), [(1, 4)], "with a new allowance");
    machine.nak(Sequence(1), START, ms(4)).unwrap();
    assert_eq!(machine.discard(Some(Sequence(1)), ms(4)), 1);
    assert_eq!((machine.info().parked, machine.needed_from()), (0, Sequence(3)));
}

#[test]
fn a_full_list_of_parked_events_stops_delivery_and_never_drops_one() {
    let mut machine = machine(Definition { max_deliver: Some(1), ..group(1) });
    let member = machine.attach(&"m".parse().unwrap(), false, START).unwrap();
    let last = PARKED_MAX as u64 + 1;
    for sequence in 1..=last {
        assert!(take(&mut machine, member, sequence, 7, START));
        machine.nak(Sequence(sequence), START, START).unwrap();
    }
    assert_eq!(machine.info().parked as usize, PARKED_MAX);
    assert!(!take(&mut machine, member, last + 1, 7, START), "its instrument waits");
    assert_eq!(waiting_for(&mut machine, member, ms(1_000_000)), []);
    assert!(machine.advisories().any(|(_, one)| *one == Advisory::ParkedFull { sequence: Sequence(last) }));
    assert_eq!(machine.floor(), Sequence(last - 1));
    assert_eq!(machine.discard(Some(Sequence(5)), START), 1);
    assert_eq!(machine.info().parked as usize, PARKED_MAX, "the one that waited has its place");
    assert_eq!(waiting_for(&mut machine, member, START), [(last + 1, 1)]);
}

#[test]
fn a_record_beyond_the_tapes_end_is_pulled_back_and_what_comes_then_is_marked() {
    let mut first = machine(group(1));
    let member = first.attach(&"m".parse().unwrap(), false, START).unwrap();
    for sequence in 1..=10 {
        assert!(take(&mut first, member, sequence, sequence as u32, START));
    }
    for sequence in [1, 2, 3, 9] {
        first.ack(Sequence(sequence)).unwrap();
    }
    let (state, _) = first.record_last(Epoch(1), START);
    assert_eq!(
        (state.next, state.reserved_through, state.floor()),
        (Sequence(11), Sequence(10), Sequence(3))
    );

    let definition = group(1).checked().unwrap();
    let mut found = Machine::new(definition.clone(), &state, Vec::new(), AcceptedTime(0), MemberId::NOBODY);
    assert!(!found.pull_back(Sequence(10), START), "the tape has it all");
    assert!(found.pull_back(Sequence(6), START));
    assert_eq!((found.next(), found.floor()), (Sequence(7), Sequence(3)));
    assert_eq!(
        found.tell(MemberId::NOBODY),
        Some(Advisory::PulledBack { from: Sequence(11), to: Sequence(7) })
    );
    let member = found.attach(&"m".parse().unwrap(), false, START).unwrap();
    assert_eq!(waiting_for(&mut found, member, START), [(4, 2), (5, 2), (6, 2)]);
    let (state, _) = found.record(Epoch(2), START);
    found.recorded(state.reserved_through);
    for (sequence, marked) in [(7, true), (10, true), (11, false)] {
        let delivered = found.take(member, Sequence(sequence), InstrumentId(99), START).unwrap();
        assert_eq!((delivered.sequence.get(), delivered.redelivered), (sequence, marked));
    }

    // One that begins with what is new after 10 gets what takes the place of 7 to 10.
    let new = Definition { deliver: DeliverPolicy::New, ..definition.clone() };
    let begun = State::beginning(Epoch(1), Sequence(11), Sequence::ZERO);
    let mut found = Machine::new(new, &begun, Vec::new(), AcceptedTime(0), MemberId::NOBODY);
    assert!(found.pull_back(Sequence(6), START));
    assert_eq!(found.next(), Sequence(7));
    // One that was told to begin at 11 waits for it.
    let fixed = Definition { deliver: DeliverPolicy::ByStartSequence(Sequence(11)), ..definition };
    let mut found = Machine::new(fixed, &begun, Vec::new(), AcceptedTime(0), MemberId::NOBODY);
    assert!(!found.pull_back(Sequence(6), START));
}

#[test]
fn nothing_beyond_what_is_recorded_is_delivered() {
    let mut machine = machine(Definition { ack: AckPolicy::None, ..Definition::default() });
    let member = machine.attach(&"m".parse().unwrap(), false, START).unwrap();
    let (_, through) = machine.room();
    let mut sequence = 0;
    while let Want::Events(next) = machine.want() {
        assert!(take(&mut machine, member, next.get(), 1, START));
        sequence = next.get();
    }
    assert_eq!((Sequence(sequence), machine.want()), (through, Want::Record));
    let (state, _) = machine.record(Epoch(1), START);
    assert_eq!(machine.want(), Want::Record, "not before it is durable");
    assert!(state.reserved_through.get() >= 3 * sequence, "the faster it goes the more is reserved");
    machine.recorded(state.reserved_through);
    assert_eq!(machine.want(), Want::Events(Sequence(sequence + 1)));
    let beyond = std::panic::catch_unwind(move || {
        machine.take(member, state.reserved_through.next(), InstrumentId(1), START)
    });
    assert!(beyond.is_err());
}

#[test]
fn what_was_unparked_is_delivered_again_whatever_is_acknowledged_behind_it() {
    let all = Definition { ack: AckPolicy::All, max_deliver: Some(1), ..Definition::default() };
    let mut machine = machine(all);
    let member = machine.attach(&"m".parse().unwrap(), false, START).unwrap();
    for sequence in 1..=5 {
        assert!(take(&mut machine, member, sequence, 1, START));
    }
    machine.nak(Sequence(5), START, START).unwrap();
    assert_eq!(machine.info().parked, 1);
    for sequence in 6..=10 {
        assert!(take(&mut machine, member, sequence, 1, START));
    }
    assert_eq!(machine.unpark(Some(Sequence(5)), START), 1);
    assert_eq!(machine.ack(Sequence(10)).unwrap().settled, 9);
    assert_eq!(machine.floor(), Sequence(4));
    assert_eq!(waiting_for(&mut machine, member, START), [(5, 2)]);
    assert_eq!(machine.ack(Sequence(10)).unwrap().settled, 1, "now it was delivered");
}

#[test]
fn an_event_that_kills_its_members_is_parked_in_the_end() {
    let mut machine = machine(Definition { max_deliver: Some(3), member_timeout: ms(100), ..group(1) });
    let begin = ms(0);
    let first = machine.attach(&"m".parse().unwrap(), true, begin).unwrap();
    assert!(take(&mut machine, first, 1, 7, begin) && take(&mut machine, first, 2, 8, begin));
    machine.ack(Sequence(2)).unwrap();
    // Its first member is replaced, the second is not heard of, the third is taken off.
    let second = machine.attach(&"m".parse().unwrap(), true, ms(1)).unwrap();
    assert_eq!(waiting_for(&mut machine, second, ms(1)), [(1, 2)]);
    machine.tick(ms(101));
    let third = machine.attach(&"m".parse().unwrap(), false, ms(101)).unwrap();
    assert_eq!(waiting_for(&mut machine, third, ms(101)), [(1, 3)]);
    machine.detach(third, ms(101));
    let parked: Vec<_> = machine.parked().map(|one| (one.sequence, one.deliveries, one.reason)).collect();
    assert_eq!(parked, [(Sequence(1), 3, ParkReason::Expired)]);
}

#[test]
fn members_of_two_lives_have_different_numbers() {
    let definition = group(2).checked().unwrap();
    let state = State::beginning(Epoch(1), Sequence(1), Sequence::ZERO);
    let life = |after: u64| {
        let mut machine =
            Machine::new(definition.clone(), &state, Vec::new(), AcceptedTime(0), MemberId(after));
        ["a", "b"].map(|name| machine.attach(&name.parse().unwrap(), true, START).unwrap())
    };
    assert_eq!(life(41), [MemberId(42), MemberId(43)]);
    assert_eq!(life(u64::MAX), [MemberId(1), MemberId(2)], "nobody has the number of nobody");
}

#[test]
fn behind_a_lost_end_everything_is_wanted_and_not_only_the_last_of_each_instrument() {
    let definition = Definition { deliver: DeliverPolicy::LastPerInstrument, ..group(1) };
    let state = State::beginning(Epoch(1), Sequence(1), Sequence(30));
    let new = |definition| Machine::new(definition, &state, Vec::new(), AcceptedTime(0), MemberId::NOBODY);
    let mut machine = new(definition.checked().unwrap());
    assert!(machine.pull_back(Sequence(10), START), "to be recorded before there is more");
    assert_eq!((machine.next(), machine.initial_through()), (Sequence(1), Sequence(10)));
    assert!(machine.is_changed() && machine.tell(MemberId::NOBODY).is_none());
}

#[test]
fn what_a_dead_member_had_rests_for_its_backoff_and_comes_at_once_without_one() {
    for (backoff, due) in [(vec![], [10, 10]), (vec![ms(50), ms(400)], [50, 450])] {
        let mut machine = machine(Definition { backoff, ..group(2) });
        let one = machine.attach(&"one".parse().unwrap(), false, START).unwrap();
        let two = machine.attach(&"two".parse().unwrap(), false, START).unwrap();
        assert!(take(&mut machine, one, 1, 7, START) && take(&mut machine, two, 2, 8, START));
        // Its first member dies at 10 ms.
        machine.lose(one, ms(10));
        let first = ms(due[0]);
        assert_eq!(waiting_for(&mut machine, two, first - ms(1)), []);
        assert!(!take(&mut machine, two, 3, 7, ms(10)), "its instrument waits with it");
        assert_eq!(waiting_for(&mut machine, two, first), [(1, 2), (3, 1)]);
        // The second one, which is replaced by its like, has the second step.
        let again = machine.attach(&"two".parse().unwrap(), false, first).unwrap();
        let second = first.max(ms(due[1]));
        let before = waiting_for(&mut machine, again, second - ms(1));
        assert!(before.iter().all(|(sequence, _)| *sequence != 1), "{before:?}");
        assert!(waiting_for(&mut machine, again, second).contains(&(1, 3)));
        // The third one leaves: that is a refusal, and no step is waited for.
        machine.detach(again, second);
        let last = machine.attach(&"last".parse().unwrap(), false, second).unwrap();
        assert!(waiting_for(&mut machine, last, second).contains(&(1, 4)));
    }
}

/// The machine as another life of the node finds it, `down` after it was recorded at `now`.
fn restarted(machine: &mut Machine, now: Duration, down_ms: i64) -> Machine {
    let definition = machine.definition().clone();
    let (state, _) = machine.record(Epoch(1), now);
    let state = State::decode(&state.encode()).unwrap();
    let parked: Vec<Parked> = machine.parked().copied().collect();
    let origin = AcceptedTime(state.recorded_at.get() + down_ms * 1_000_000);
    Machine::new(definition, &state, parked, origin, MemberId(1 << 20))
}

#[test]
fn what_is_left_of_a_delay_or_a_backoff_survives_a_restart() {
    let mut before = machine(Definition { backoff: vec![ms(100)], ..group(1) });
    let member = before.attach(&"m".parse().unwrap(), false, START).unwrap();
    for sequence in 1..=3 {
        assert!(take(&mut before, member, sequence, sequence as u32, START));
    }
    before.nak(Sequence(2), ms(1000), ms(10)).unwrap();
    // Recorded at 20 ms: event 1 and 3 rest 80 ms more, event 2 for 990 ms.
    let cases = [(30, 50, 960), (100, 0, 890), (-3_600_000, 80, 990), (1 << 40, 0, 0)];
    for (down, first, second) in cases {
        let mut after = restarted(&mut before, ms(20), down);
        assert_eq!(
            after.quiet_until(),
            [first, second].map(ms).into_iter().find(|due| *due > START),
            "somebody is woken"
        );
        let member = after.attach(&"m".parse().unwrap(), false, START).unwrap();
        if first > 0 {
            assert_eq!(waiting_for(&mut after, member, ms(first) - ms(1)), []);
        }
        let expected: &[_] = if second == 0 { &[(1, 2), (2, 2), (3, 2)] } else { &[(1, 2), (3, 2)] };
        assert_eq!(waiting_for(&mut after, member, ms(first)), expected, "{down}");
        if second > 0 {
            assert_eq!(waiting_for(&mut after, member, ms(second) - ms(1)), []);
            assert_eq!(waiting_for(&mut after, member, ms(second)), [(2, 2)]);
        }
    }
    // Without a backoff nobody is waited for, whatever is left of `ack_wait`; a delay asked for is kept.
    let mut before = machine(group(1));
    let member = before.attach(&"m".parse().unwrap(), false, START).unwrap();
    assert!(take(&mut before, member, 1, 7, START) && take(&mut before, member, 2, 8, START));
    before.nak(Sequence(2), ms(1000), START).unwrap();
    let mut after = restarted(&mut before, START, 0);
    let member = after.attach(&"m".parse().unwrap(), false, START).unwrap();
    assert_eq!(waiting_for(&mut after, member, START), [(1, 2)]);
    assert_eq!(waiting_for(&mut after, member, ms(1000)), [(2, 2)]);
}

#[test]
fn what_was_delivered_as_often_as_allowed_is_not_delivered_again_by_a_restart_or_a_smaller_limit() {
    let mut before = machine(Definition { max_deliver: Some(2), ..group(1) });
    let member = before.attach(&"m".parse().unwrap(), false, START).unwrap();
    assert!(take(&mut before, member, 1, 7, START) && take(&mut before, member, 2, 8, START));
    before.nak(Sequence(1), START, START).unwrap();
    assert_eq!(waiting_for(&mut before, member, START), [(1, 2)]);
    let mut after = restarted(&mut before, START, 5);
    assert!(after.tick(START));
    assert_eq!(after.parked().map(|one| one.sequence).collect::<Vec<_>>(), [Sequence(1)]);
    let told = Advisory::Parked { sequence: Sequence(1), deliveries: 2, reason: ParkReason::Expired };
    assert_eq!(after.tell(MemberId::NOBODY), Some(told));
    assert!(after.is_changed() && after.record(Epoch(2), START).1, "and that is recorded");
    assert!(after.update(Definition { max_deliver: Some(1), ..group(1) }).is_ok());
    assert!(after.tick(START));
    assert_eq!(after.info().parked, 2);
}

#[test]
fn whoever_finished_a_parked_event_after_all_takes_it_off_the_list() {
    let mut machine = machine(Definition { max_deliver: Some(1), member_timeout: ms(100), ..group(1) });
    let slow = machine.attach(&"slow".parse().unwrap(), true, START).unwrap();
    let last = PARKED_MAX as u64 + 2;
    for sequence in 1..=last {
        assert!(take(&mut machine, slow, sequence, sequence as u32, START));
    }
    assert!(machine.tick(ms(100)));
    assert_eq!((machine.info().parked as usize, machine.info().waiting), (PARKED_MAX, 2));
    machine.record(Epoch(1), ms(100));
    assert_eq!(machine.ack(Sequence(4)), Ok(Acked { settled: 1 }), "it was slow, and not dead");
    assert_eq!(machine.term(Sequence(5), ms(101)), Ok(Acked { settled: 1 }));
    assert_eq!(machine.ack(Sequence(4)), Ok(Acked { settled: 0 }), "twice does no harm");
    assert_eq!(machine.info().parked as usize, PARKED_MAX - 2);
    assert!(machine.tick(ms(101)), "and those that found no room have it now");
    assert_eq!((machine.info().parked as usize, machine.info().waiting), (PARKED_MAX, 0));
    assert!(machine.record(Epoch(1), ms(101)).1);
}

#[test]
fn what_was_in_an_answer_that_never_arrived_comes_again_in_order_and_is_meant_by_no_acknowledgement() {
    for ack in [AckPolicy::All, AckPolicy::Explicit] {
        let mut machine = machine(Definition { ack, max_deliver: Some(1), ..Definition::default() });
        let member = machine.attach(&"m".parse().unwrap(), true, START).unwrap();
        assert_eq!(machine.ask(member, 0, START), Ok(Some(1)));
        for sequence in 1..=10 {
            assert!(take(&mut machine, member, sequence, 7, START));
        }
        // The answer with 11 to 20 does not arrive: the member asks again, and is given no others instead.
        assert_eq!(machine.ask(member, 1, START), Ok(Some(2)));
        for sequence in 11..=20 {
            assert!(take(&mut machine, member, sequence, 7, START));
        }
        assert_eq!(machine.ask(member, 1, ms(1)), Ok(Some(3)));
        assert!(!machine.is_answer(member, 2) && machine.is_answer(member, 3));
        // Whatever is acknowledged behind them: nobody has seen them.
        let settled = if ack == AckPolicy::All { 10 } else { 1 };
        assert_eq!(machine.ack(Sequence(10)), Ok(Acked { settled }));
        let again = waiting_for(&mut machine, member, ms(1));
        assert_eq!(again, (11..=20).map(|sequence| (sequence, 2)).collect::<Vec<_>>());
        // What arrived is not taken back, also by a request that comes late; what is not said to have arrived is.
        assert_eq!(machine.ask(member, 3, ms(2)), Ok(Some(4)));
        assert_eq!(waiting_for(&mut machine, member, ms(2)), []);
        assert_eq!(machine.ask(member, 9, ms(2)), Err(AnswerError { received: 9, last: 4 }));
        // A delivery that arrived counts, the one that did not does not.
        machine.nak(Sequence(20), START, ms(2)).unwrap();
        assert_eq!(machine.parked().map(|one| one.sequence).collect::<Vec<_>>(), [Sequence(20)]);
        assert_eq!(machine.ask(MemberId(999), 0, ms(2)), Ok(None));
    }
}

#[test]
fn what_a_member_was_told_with_an_answer_that_never_arrived_is_told_again_and_recorded_until_it_has_it() {
    let lost = Advisory::Lost { first: Sequence(1), last: Sequence(5) };
    let mut machine = machine(group(1));
    let member = machine.attach(&"m".parse().unwrap(), true, START).unwrap();
    machine.keep_from(Sequence(6), START);
    assert_eq!(machine.ask(member, 0, START), Ok(Some(1)));
    assert_eq!(machine.tell(member), Some(lost.clone()));
    assert_eq!(machine.record(Epoch(1), START).0.lost, [(Sequence(1), Sequence(5))], "it may not have it");
    assert_eq!(machine.ask(member, 0, START), Ok(Some(2)));
    assert_eq!((machine.tell(member), machine.tell(member)), (Some(lost.clone()), None));
    // It dies without a word: the next one is told. That one says to have it.
    machine.lose(member, START);
    let next = machine.attach(&"n".parse().unwrap(), true, START).unwrap();
    assert_eq!(machine.ask(next, 0, START), Ok(Some(1)));
    assert_eq!(machine.tell(next), Some(lost));
    assert_eq!(machine.ask(next, 1, START), Ok(Some(2)));
    assert_eq!((machine.tell(next), machine.record(Epoch(1), START).0.lost), (None, Vec::new()));
}

#[test]
fn a_shorter_member_timeout_counts_at_once() {
    let mut machine = machine(Definition { member_timeout: ms(60_000), ..group(1) });
    let silent = machine.attach(&"silent".parse().unwrap(), true, START).unwrap();
    assert!(!machine.tick(ms(200)));
    machine.update(Definition { member_timeout: ms(100), ..group(1) }).unwrap();
    assert!(machine.tick(ms(200)) && !machine.heard(silent, ms(200)));
}
