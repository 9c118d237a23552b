//! The decision. Pure: numbers in, backend and reasons out.

use matchtape_storage::wal::WriteBackend;

use super::{Extents, LATENCY_BYTES, Measured, RATE_BYTES, backend_name};

/// A difference below so many percent is none: two runs on the same disk differ by as much.
const MARGIN_PERCENT: u64 = 10;
/// Fewer writes say nothing about their slowest hundredth.
const WRITES_MIN: u64 = 200;

/// What to put into the configuration, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recommendation {
    /// The backend.
    pub backend: WriteBackend,
    /// For people; the last one is what decided.
    pub reasons: Vec<String>,
}

/// Chooses by the P99 of small writes, which is what a publisher waits for; where that is alike, or better for one size and
/// worse for the other, by the rate of large ones; where that is too, what works everywhere. Rows of
/// [`Extents::Allocated`] have no part in it: the log does not write to such.
pub fn recommend(measured: &[Measured]) -> Recommendation {
    let row = |backend, bytes| {
        measured
            .iter()
            .find(|row| row.backend == backend && row.bytes == bytes && row.extents == Extents::Zeroed)
    };
    let pair =
        |bytes: &usize| Some((row(WriteBackend::Buffered, *bytes)?, row(WriteBackend::Direct, *bytes)?));
    let (latencies, rates): (Vec<_>, Vec<_>) =
        (LATENCY_BYTES.iter().filter_map(pair).collect(), RATE_BYTES.iter().filter_map(pair).collect());
    if latencies.is_empty() && rates.is_empty() {
        return only_one(measured);
    }

    let mut reasons = Vec::new();
    let by_latency: Vec<_> = latencies.iter().filter_map(|pair| compare_p99(*pair, &mut reasons)).collect();
    let by_rate: Vec<_> = rates.iter().filter_map(|pair| compare_rate(*pair, &mut reasons)).collect();
    let (backend, why) = match (agreed(&by_latency), agreed(&by_rate)) {
        (Some(backend), _) => (backend, "the lower P99 of small writes, which is what a publisher waits for"),
        (None, Some(backend)) => (backend, "P99 does not decide; the higher rate of large writes does"),
        (None, None) => {
            (WriteBackend::Buffered, "neither is clearly better, and this one works on every file system")
        }
    };
    reasons.push(format!("{}: {why}", backend_name(backend)));
    Recommendation { backend, reasons }
}

fn only_one(measured: &[Measured]) -> Recommendation {
    let direct = measured.iter().any(|row| row.backend == WriteBackend::Direct);
    let buffered = measured.iter().any(|row| row.backend == WriteBackend::Buffered);
    let (backend, why) = match (buffered, direct) {
        (false, true) => (WriteBackend::Direct, "the only one that could be measured"),
        (true, false) => (WriteBackend::Buffered, "the only one that could be measured"),
        _ => (WriteBackend::Buffered, "nothing could be compared, and this one works on every file system"),
    };
    Recommendation { backend, reasons: vec![format!("{}: {why}", backend_name(backend))] }
}

/// The one backend that leads, if none of the comparisons says the other.
fn agreed(leaders: &[WriteBackend]) -> Option<WriteBackend> {
    let first = *leaders.first()?;
    leaders.iter().all(|leader| *leader == first).then_some(first)
}

fn compare_p99(
    (buffered, direct): (&Measured, &Measured),
    reasons: &mut Vec<String>,
) -> Option<WriteBackend> {
    let size = buffered.bytes >> 10;
    if buffered.writes.min(direct.writes) < WRITES_MIN {
        reasons.push(format!(
            "{size} KiB: {} and {} writes are too few for a P99; a longer run has more",
            buffered.writes, direct.writes
        ));
        return None;
    }
    let leader = clearly_less(buffered.p99_ns, direct.p99_ns, WriteBackend::Buffered, WriteBackend::Direct);
    reasons.push(format!(
        "P99 of {size} KiB: buffered {:.1} us, direct {:.1} us{}",
        buffered.p99_ns as f64 / 1e3,
        direct.p99_ns as f64 / 1e3,
        alike(leader)
    ));
    leader
}

fn compare_rate(
    (buffered, direct): (&Measured, &Measured),
    reasons: &mut Vec<String>,
) -> Option<WriteBackend> {
    let (slow, fast) = (buffered.bytes_per_second, direct.bytes_per_second);
    // The smaller number is the worse one.
    let leader = clearly_less(slow, fast, WriteBackend::Direct, WriteBackend::Buffered);
    reasons.push(format!(
        "rate of {} KiB: buffered {:.0} MB/s, direct {:.0} MB/s{}",
        buffered.bytes >> 10,
        slow as f64 / 1e6,
        fast as f64 / 1e6,
        alike(leader)
    ));
    leader
}

fn clearly_less(
    left: u64,
    right: u64,
    if_left: WriteBackend,
    if_right: WriteBackend,
) -> Option<WriteBackend> {
    let clearly =
        |less: u64, more: u64| u128::from(less) * u128::from(100 + MARGIN_PERCENT) < u128::from(more) * 100;
    if clearly(left, right) { Some(if_left) } else { clearly(right, left).then_some(if_right) }
}

fn alike(leader: Option<WriteBackend>) -> String {
    match leader {
        Some(_) => String::new(),
        None => format!(", within {MARGIN_PERCENT} % of each other"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(backend: WriteBackend, bytes: usize, p99_us: u64, megabytes: u64) -> Measured {
        Measured {
            backend,
            extents: Extents::Zeroed,
            bytes,
            writes: 1000,
            p50_ns: p99_us * 500,
            p99_ns: p99_us * 1000,
            p999_ns: p99_us * 2000,
            max_ns: p99_us * 3000,
            bytes_per_second: megabytes * 1_000_000,
        }
    }

    /// P99 in microseconds of 4 and 16 KiB, megabytes per second of 256 KiB and 1 MiB: of buffered, of direct.
    fn rows(buffered: [u64; 4], direct: [u64; 4]) -> Vec<Measured> {
        let of = |backend, [small, medium, large, largest]: [u64; 4]| {
            [
                row(backend, 4 << 10, small, 1),
                row(backend, 16 << 10, medium, 1),
                row(backend, 256 << 10, 1, large),
                row(backend, 1 << 20, 1, largest),
            ]
        };
        [of(WriteBackend::Buffered, buffered), of(WriteBackend::Direct, direct)].concat()
    }

    fn chosen(measured: &[Measured]) -> (WriteBackend, String) {
        let Recommendation { backend, mut reasons } = recommend(measured);
        (backend, reasons.pop().unwrap())
    }

    #[test]
    fn a_clearly_lower_p99_decides_whatever_the_rates_are() {
        let (backend, why) = chosen(&rows([100, 150, 900, 1200], [200, 150, 1900, 4200]));
        assert_eq!(backend, WriteBackend::Buffered);
        assert!(why.contains("lower P99"), "{why}");
        let (backend, _) = chosen(&rows([200, 300, 4000, 4000], [100, 150, 100, 100]));
        assert_eq!(backend, WriteBackend::Direct);
    }

    #[test]
    fn rates_decide_where_p99_is_alike_or_torn() {
        for latencies in [([100, 150], [109, 140]), ([100, 300], [200, 150])] {
            let ([small, medium], [direct_small, direct_medium]) = latencies;
            let (backend, why) =
                chosen(&rows([small, medium, 900, 1200], [direct_small, direct_medium, 1900, 4200]));
            assert_eq!(backend, WriteBackend::Direct);
            assert!(why.contains("rate of large writes"), "{why}");
            let (backend, _) =
                chosen(&rows([small, medium, 1900, 4200], [direct_small, direct_medium, 900, 1200]));
            assert_eq!(backend, WriteBackend::Buffered);
        }
    }

    #[test]
    fn what_works_everywhere_is_recommended_where_nothing_decides() {
        for direct in [[100, 150, 950, 1250], [100, 150, 400, 4000]] {
            let (backend, why) = chosen(&rows([100, 150, 900, 1200], direct));
            assert_eq!(backend, WriteBackend::Buffered);
            assert!(why.contains("neither"), "{why}");
        }
        assert_eq!(chosen(&[]).0, WriteBackend::Buffered);
    }

    #[test]
    fn a_p99_of_too_few_writes_decides_nothing_and_is_told() {
        let mut measured = rows([500, 500, 900, 900], [100, 100, 100, 100]);
        measured.iter_mut().for_each(|row| row.writes = WRITES_MIN - 1);
        let recommendation = recommend(&measured);
        assert_eq!(recommendation.backend, WriteBackend::Buffered);
        assert!(recommendation.reasons[0].contains("too few"), "{:?}", recommendation.reasons);
    }

    #[test]
    fn the_only_backend_there_is_is_recommended() {
        for only in [WriteBackend::Buffered, WriteBackend::Direct] {
            let mut measured = rows([100, 100, 900, 900], [100, 100, 900, 900]);
            measured.retain(|row| row.backend == only);
            let (backend, why) = chosen(&measured);
            assert_eq!(backend, only);
            assert!(why.contains("only one"), "{why}");
        }
    }

    #[test]
    fn writes_into_merely_allocated_extents_have_no_part_in_it() {
        let mut measured = rows([100, 150, 900, 1200], [100, 150, 900, 1200]);
        for row in &mut measured {
            row.extents = Extents::Allocated;
            row.p99_ns = 1;
        }
        measured.retain(|row| row.backend == WriteBackend::Buffered);
        measured.extend(rows([200, 300, 900, 1200], [100, 150, 900, 1200]));
        assert_eq!(chosen(&measured).0, WriteBackend::Direct);
    }
}
