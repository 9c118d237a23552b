//! What independent programs computed from the source files (`expected.json`), computed again from a tape.
#![allow(dead_code, reason = "each test file uses its part")]

pub mod dbn;
pub mod sse;

use std::path::{Path, PathBuf};

use matchtape_market::Book;
use matchtape_schemas::event::Side;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The folder of the data sets, if it is there. In CI it has to be.
pub fn data() -> Option<PathBuf> {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let folder = std::env::var_os("MATCHTAPE_DATA").map_or(default, PathBuf::from);
    if folder.join("sse_l2_20230711/expected.json").exists() {
        return Some(folder);
    }
    assert!(std::env::var_os("CI").is_none(), "CI has to check real data: {} has none", folder.display());
    eprintln!(
        "\n!!! NOT CHECKED: no real data at {}. Set MATCHTAPE_DATA to the folder of the data sets.\n",
        folder.display()
    );
    None
}

pub fn expected(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap()
}

/// SHA-256 of lines, each ended by a line feed.
#[derive(Default)]
pub struct LineHash {
    hasher: Sha256,
    lines: u64,
}

impl LineHash {
    pub fn add(&mut self, line: std::fmt::Arguments<'_>) {
        self.hasher.update(format!("{line}\n").as_bytes());
        self.lines += 1;
    }

    pub fn out(&self) -> Value {
        let hex: String = self.hasher.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        json!({"lines": self.lines, "sha256": hex})
    }
}

pub fn letter(side: Side) -> &'static str {
    match side {
        Side::Buy => "B",
        Side::Sell => "A",
        Side::None => "N",
    }
}

/// How the data set counts: units of 1e-9 in one of its price units and in one of its quantities.
#[derive(Clone, Copy)]
pub struct Units {
    pub price: i64,
}

const ONE: u128 = 1_000_000_000;

impl Units {
    pub fn price(self, units: i64) -> i64 {
        assert_eq!(units % self.price, 0);
        units / self.price
    }

    pub fn whole(self, units: u128) -> u64 {
        assert_eq!(units % ONE, 0);
        (units / ONE) as u64
    }

    pub fn notional(self, units: i128) -> i64 {
        let unit = i128::from(self.price) * ONE as i128;
        assert_eq!(units % unit, 0);
        (units / unit) as i64
    }

    fn rows(self, book: &Book, side: Side, count: usize) -> Vec<(i64, u64, u32)> {
        book.levels(side)
            .take(count)
            .map(|level| (self.price(level.price.units()), self.whole(level.quantity.units()), level.orders))
            .collect()
    }

    pub fn top10(self, book: &Book) -> Value {
        json!({"bids": self.rows(book, Side::Buy, 10), "asks": self.rows(book, Side::Sell, 10)})
    }

    pub fn totals(self, book: &Book) -> Value {
        let totals = book.totals();
        json!({
            "bid_levels": totals.bid_levels,
            "bid_orders": totals.bids.orders,
            "bid_qty": self.whole(totals.bids.quantity.units()),
            "ask_levels": totals.ask_levels,
            "ask_orders": totals.asks.orders,
            "ask_qty": self.whole(totals.asks.quantity.units()),
        })
    }

    pub fn full_hash(self, book: &Book) -> Value {
        let mut hash = LineHash::default();
        for side in [Side::Buy, Side::Sell] {
            for (price, quantity, orders) in self.rows(book, side, usize::MAX) {
                hash.add(format_args!("{},{price},{quantity},{orders}", letter(side)));
            }
        }
        hash.out()
    }
}

/// Compares every entry of `expected` but those of `left_out`; none may be missing.
pub fn compare(
    path: &str,
    expected: &Value,
    found: &Value,
    left_out: &[&str],
    differences: &mut Vec<String>,
) {
    match (expected, found) {
        (Value::Object(expected), Value::Object(found)) => {
            for (key, value) in expected {
                let path = format!("{path}/{key}");
                if left_out.contains(&path.as_str()) {
                    continue;
                }
                match found.get(key) {
                    Some(found) => compare(&path, value, found, left_out, differences),
                    None => differences.push(format!("{path} was not computed")),
                }
            }
        }
        _ if expected != found => {
            let short = |value: &Value| value.to_string().chars().take(300).collect::<String>();
            differences.push(format!("{path}: expected {} found {}", short(expected), short(found)));
        }
        _ => {}
    }
}
