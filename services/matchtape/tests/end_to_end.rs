//! The binary itself: both data sets imported into one data directory, and everything asked of that directory.

mod oracle;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use matchtape_schemas::*;
use matchtape_storage::{Query, ReadOnlyOptions, ReadOnlyStore, RealDisk};
use tempfile::TempDir;

fn matchtape(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_matchtape")).args(args).output().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The standard output of a command that has to succeed.
fn succeed(args: &[&str]) -> String {
    let output = matchtape(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The standard error and exit code of a command that has to fail.
fn fail(args: &[&str]) -> (String, i32) {
    let output = matchtape(args);
    assert!(!output.status.success(), "{args:?} succeeded");
    (String::from_utf8(output.stderr).unwrap(), output.status.code().unwrap())
}

fn lines(text: &str) -> Vec<serde_json::Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn sse_files(data: &Path) -> [PathBuf; 2] {
    ["orders.csv.gz", "trades.csv.gz"].map(|name| data.join("sse_l2_20230711").join(name))
}

fn dbn_file(data: &Path, name: &str) -> PathBuf {
    data.join("cme_mbo_esh4_20231225").join(name)
}

fn import_both(data: &Path, tape: &Path) -> [String; 2] {
    let [orders, trades] = sse_files(data);
    let cme = dbn_file(data, "esh4-glbx-mdp3-20231225.mbo.dbn.zst");
    let run = |args: &[&str]| {
        let output = matchtape(args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        said
    };
    [
        run(&[
            "import",
            "--format",
            "sse-l2",
            "--segment-mib",
            "8",
            "--data",
            text(tape),
            text(&orders),
            text(&trades),
        ]),
        run(&["import", "--format", "dbn-mbo", "--segment-mib", "8", "--data", text(tape), text(&cme)]),
    ]
}

fn open(tape: &Path) -> ReadOnlyStore {
    ReadOnlyStore::open(Arc::new(RealDisk::open(tape).unwrap()), ReadOnlyOptions::default()).unwrap()
}

#[test]
fn both_days_imported_and_asked_give_every_answer_of_the_oracles() {
    let Some(data) = oracle::data() else { return };
    let folder = TempDir::new().unwrap();
    let tape = folder.path().join("tape");
    let first = import_both(&data, &tape);
    assert!(first[0].contains("111426 records read, 111429 events added, 0 there already"), "{}", first[0]);
    assert!(first[1].contains("68792 records read, 68793 events added, 0 there already"), "{}", first[1]);
    let visible = open(&tape).reader().visible();
    let again = import_both(&data, &tape);
    assert!(again[0].contains(" 0 events added, 111429 there already"), "{}", again[0]);
    assert!(again[1].contains(" 0 events added, 68793 there already"), "{}", again[1]);
    assert_eq!(open(&tape).reader().visible(), visible, "a second run adds nothing");

    every_answer(&data, &tape);
    check_tape(&data, &tape);
    let verified = succeed(&["verify", "--data", text(&tape), "--format", "text"]);
    assert!(verified.starts_with("sound: "), "{verified}");
    let inspected = succeed(&["inspect", "--data", text(&tape)]);
    let inspected: serde_json::Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(inspected["visible"].as_u64(), Some(visible.get()));
    assert_eq!(inspected["segment_files"][0]["file"], "wal/000000000001.wal");
    let readable = succeed(&["inspect", "--data", text(&tape), "--format", "text"]);
    assert!(
        readable.contains(&format!("visible         {visible}\n")) && readable.contains("event table"),
        "{readable}"
    );
}

/// The project's own check: all of `expected.json`, from the frames of the store and from its index by instrument.
fn every_answer(data: &Path, tape: &Path) {
    let expected =
        ["sse_l2_20230711", "cme_mbo_esh4_20231225"].map(|name| oracle::expected(&data.join(name)));
    let reader = open(tape).reader();
    let mut sse = oracle::sse::Oracle::new(&expected[0]);
    let mut dbn = oracle::dbn::Oracle::new(&expected[1]);
    let mut frames = reader.frames(Sequence::FIRST).unwrap();
    let (mut last, mut cme) = (Sequence::ZERO, None);
    while let Some(frame) = frames.next_frame().unwrap() {
        for event in frame.frame().events() {
            assert_eq!(event.sequence(), last.next(), "dense");
            last = event.sequence();
            if let BodyRef::InstrumentDefined(definition) = event.body()
                && definition.symbol.get().as_str() == "ESH4"
            {
                cme = Some(event.instrument());
            }
            match cme {
                Some(cme) if event.instrument() == cme => dbn.apply(&event),
                _ => sse.apply(&event),
            }
        }
    }
    assert_eq!(last, reader.visible());
    let mut differences = Vec::new();
    let described =
        ["/format", "/files", "/file", "/metadata", "/date", "/timezone", "/price_unit", "/qty_unit"];
    oracle::compare("", &expected[0], &sse.finish(), &described, &mut differences);
    oracle::compare("", &expected[1], &dbn.finish(), &described, &mut differences);
    let mut indexed = oracle::dbn::Oracle::new(&expected[1]);
    for event in reader.query(&Query { instrument: cme, ..Query::default() }).unwrap() {
        indexed.apply(&event.unwrap().event());
    }
    oracle::compare(
        "indexed",
        &expected[1],
        &indexed.finish(),
        &["indexed/format", "indexed/file", "indexed/metadata"],
        &mut differences,
    );
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// The independent program that asks the binary.
fn check_tape(data: &Path, tape: &Path) {
    let script = data.join("../check/check_tape.py");
    let python = Command::new("python3").arg("--version").output();
    if !script.exists() || python.is_err() {
        assert!(std::env::var_os("CI").is_none(), "CI has to run {}", script.display());
        eprintln!("\n!!! NOT CHECKED: {} with python3\n", script.display());
        return;
    }
    for (kind, folder, arguments) in [
        ("sse", "sse_l2_20230711", &[][..]),
        ("dbn", "cme_mbo_esh4_20231225", &[]),
        ("dbn", "cme_mbo_esh4_20231225", &["--symbol", "ESH4"]),
    ] {
        let output = Command::new("python3")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .arg(&script)
            .args([kind, text(&data.join(folder).join("expected.json"))])
            .args(arguments)
            .args(["--", env!("CARGO_BIN_EXE_matchtape"), "QUERY_ARGS_HERE", "--data", text(tape)])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains(" agree, 0 differ"), "{kind}: {said}");
        assert!(!said.contains("0 agree"), "{said}");
    }
}

const HEADING: &str = "MDDate,MDTime,Symbol,ReceiveDateTime,OrderType,OrderPrice,OrderQty,OrderBSFlag,ChannelNo,ApplSeqNum,OrderNO,SecurityID\n";
const TRADES_HEADING: &str = "MDDate,MDTime,Symbol,ReceiveDateTime,TradeIndex,TradeBuyNo,TradeSellNo,TradeBSFlag,TradePrice,TradeQty,ChannelNo,ApplSeqNum,SecurityID\n";

/// A line of orders: the second of 09:30, then type, price, quantity, side, channel, sequence, order and symbol as in the
/// file.
fn order(second: u32, rest: &str) -> String {
    format!("2023.07.11,09:30:{second:02}.000,名称,2023.07.11T09:30:{second:02}.001,{rest}\n")
}

/// A small day of two instruments; time goes back once.
fn small_day(folder: &Path) -> [PathBuf; 2] {
    let orders = [
        order(1, "2,10.000000000000001,300,1,1,1,11,A.SH"),
        order(2, "2,10.1,200,2,1,2,12,A.SH"),
        order(3, "2,5,100,1,1,4,13,B.SH"),
        order(9, "2,9.9,100,1,1,5,14,A.SH"),
        order(5, "10,10,300,1,1,6,11,A.SH"),
    ];
    let trade = "2023.07.11,09:30:02.500,名称,2023.07.11T09:30:02.501,901,99,12,1,10.1,50,1,3,A.SH\n";
    let files = ["orders.csv", "trades.csv"].map(|name| folder.join(name));
    std::fs::write(&files[0], format!("{HEADING}{}", orders.concat())).unwrap();
    std::fs::write(&files[1], format!("{TRADES_HEADING}{trade}")).unwrap();
    files
}

fn import_small(folder: &Path, more: &[&str]) -> Output {
    let [orders, trades] = small_day(folder);
    let tape = folder.join("tape");
    let mut args = vec!["import", "--format", "sse-l2", "--segment-mib", "4", "--data", text(&tape)];
    args.extend(more);
    args.extend([text(&orders), text(&trades)]);
    matchtape(&args)
}

/// An imported small day and its tape.
fn small_tape() -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let output = import_small(folder.path(), &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tape = folder.path().join("tape");
    (folder, tape)
}

fn levels(tape: &Path, at: &str) -> Vec<String> {
    let out = succeed(&[
        "query",
        "book",
        "--data",
        text(tape),
        "--instrument",
        "A.SH",
        "--at",
        at,
        "--format",
        "ndjson",
    ]);
    let level = |row: &serde_json::Value| {
        format!(
            "{} {}x{}",
            row["side"].as_str().unwrap(),
            row["price"].as_str().unwrap(),
            row["quantity"].as_str().unwrap()
        )
    };
    lines(&out).iter().map(level).collect()
}

#[test]
fn a_book_can_be_asked_for_at_any_sequence_or_time() {
    let (_folder, tape) = small_tape();
    // 1 epoch, 2 definition, 3 and 4 orders, 5 trade, 6 definition of B, 7 its order, 8 the late order, 9 the cancel.
    assert_eq!(levels(&tape, "end"), ["buy 9.9x100", "sell 10.1x150"]);
    assert_eq!(levels(&tape, "8"), ["buy 10x300", "buy 9.9x100", "sell 10.1x150"]);
    assert_eq!(levels(&tape, "4"), ["buy 10x300", "sell 10.1x200"]);
    assert_eq!(levels(&tape, "2"), [""; 0]);
    assert_eq!(levels(&tape, "2023-07-11T01:30:02Z"), ["buy 10x300", "sell 10.1x200"]);
    assert_eq!(levels(&tape, "2023-07-11T09:30:02.500+08:00"), ["buy 10x300", "sell 10.1x150"]);
    // The cancel is earlier than 09:30:09, but stands behind an event that is later: the prefix ends before that.
    assert_eq!(levels(&tape, "1689039008999999999"), ["buy 10x300", "sell 10.1x150"]);
    assert_eq!(levels(&tape, "1689039009000000000"), ["buy 9.9x100", "sell 10.1x150"]);
    assert_eq!(levels(&tape, "2020-01-01"), [""; 0]);
    let beyond = fail(&["query", "book", "--data", text(&tape), "--instrument", "A.SH", "--at", "10"]);
    assert!(
        beyond.0.contains("sequence 10 is beyond the end of the tape, 9") && beyond.1 == 1,
        "{}",
        beyond.0
    );
}

#[test]
fn events_are_selected_by_what_was_asked() {
    let (_folder, tape) = small_tape();
    let sequences = |args: &[&str]| -> Vec<u64> {
        let out = succeed(&[&["query", "events", "--data", text(&tape)], args].concat());
        lines(&out).iter().map(|row| row["sequence"].as_u64().unwrap()).collect()
    };
    assert_eq!(sequences(&[]), (1..=9).collect::<Vec<_>>());
    assert_eq!(sequences(&["--instrument", "B.SH"]), [6, 7]);
    assert_eq!(sequences(&["--instrument", "A.SH", "--reverse", "--limit", "2"]), [9, 8]);
    assert_eq!(sequences(&["--kind", "trades,order_cancelled"]), [5, 9]);
    assert_eq!(sequences(&["--order", "12"]), [4, 5]);
    assert_eq!(sequences(&["--trade", "901"]), [5]);
    assert_eq!(sequences(&["--from", "4", "--to", "6"]), [4, 5, 6]);
    assert_eq!(sequences(&["--from", "2023-07-11T01:30:05Z", "--to", "1689039009000000000"]), [8, 9]);
    let row =
        &lines(&succeed(&["query", "events", "--data", text(&tape), "--order", "11", "--limit", "1"]))[0];
    assert_eq!(row["price"], "10");
    assert_eq!((&row["kind"], &row["event_time"]), (&"order_accepted".into(), &"1689039001000000000".into()));
    let error = fail(&["query", "events", "--data", text(&tape), "--instrument", "C.SH"]);
    assert!(error.0.contains("no instrument \"C.SH\"") && error.0.contains("A.SH, B.SH"), "{}", error.0);
    assert_eq!(fail(&["query", "events", "--data", text(&tape), "--from", "yesterday"]).1, 2);
    assert_eq!(fail(&["query", "events", "--data", text(&tape.join("nothing"))]).1, 1);
}

#[test]
fn orders_trades_and_candles_are_answered_in_every_format() {
    let (_folder, tape) = small_tape();
    let ask = |args: &[&str]| succeed(&[args, &["--data", text(&tape)]].concat());
    let orders = lines(&ask(&["query", "orders", "--instrument", "A.SH"]));
    let states: Vec<String> = orders
        .iter()
        .map(|row| format!("{} {} {}", row["order_id"], row["quantity"], row["status"]).replace('"', ""))
        .collect();
    assert_eq!(states, ["11 0 cancelled", "12 150 open", "14 100 open"]);
    let earlier = lines(&ask(&["query", "orders", "--instrument", "A.SH", "--at", "4", "--order", "12"]));
    assert_eq!((earlier.len(), &earlier[0]["quantity"]), (1, &"200".into()));
    assert_eq!(
        ask(&["query", "candles", "--instrument", "A.SH", "--format", "csv"]),
        "start,open,high,low,close,volume,notional,trades,buy_volume,sell_volume\n1689039000000000000,10.1,10.1,10.1,10.1,50,505,1,50,0\n"
    );
    let trades = ask(&["query", "trades", "--format", "table"]);
    let trades: Vec<Vec<&str>> = trades.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        trades[1],
        ["5", "2023-07-11T01:30:02.500Z", "A.SH", "10.1", "50", "buy", "901", "99", "12", "3"]
    );
    let csv = ask(&["query", "events", "--format", "csv"]);
    assert_eq!(csv.lines().count(), 10);
    assert!(csv.starts_with("sequence,epoch,event_time,kind,instrument,order_id,side,price,quantity,"));
}

#[test]
fn an_import_goes_on_where_a_malformed_line_ended_it() {
    let folder = TempDir::new().unwrap();
    let [orders, trades] = small_day(folder.path());
    let good = std::fs::read_to_string(&orders).unwrap();
    std::fs::write(&orders, good.replace("9.9,", "9.9.9,")).unwrap();
    let tape = folder.path().join("tape");
    let args = [
        "import",
        "--format",
        "sse-l2",
        "--segment-mib",
        "4",
        "--data",
        text(&tape),
        text(&orders),
        text(&trades),
    ];
    let (said, code) = fail(&args);
    assert_eq!(code, 1);
    assert!(
        said.contains("orders.csv, line 5: OrderPrice is \"9.9.9\", expected a decimal number above zero"),
        "{said}"
    );
    assert_eq!(open(&tape).reader().visible(), Sequence(7), "what came before is imported");
    std::fs::write(&orders, &good).unwrap();
    let output = matchtape(&args);
    assert!(String::from_utf8_lossy(&output.stderr).contains("2 events added, 6 there already"));
    // The second process began a term of its own.
    assert_eq!(open(&tape).reader().visible(), Sequence(10));
    assert_eq!(levels(&tape, "end"), ["buy 9.9x100", "sell 10.1x150"]);
}

#[test]
fn malformed_lines_can_be_skipped_and_are_listed() {
    let folder = TempDir::new().unwrap();
    let [orders, trades] = small_day(folder.path());
    let good = std::fs::read_to_string(&orders).unwrap();
    std::fs::write(&orders, good.replace("9.9,", "9.9.9,")).unwrap();
    let tape = folder.path().join("tape");
    let args = [
        "import",
        "--format",
        "sse-l2",
        "--on-error",
        "skip",
        "--data",
        text(&tape),
        text(&orders),
        text(&trades),
    ];
    let output = matchtape(&args);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.success() && said.contains("skipped: ") && said.contains("line 5: OrderPrice"),
        "{said}"
    );
    assert!(
        said.contains("6 records read, 7 events added") && said.contains("1 malformed ones skipped"),
        "{said}"
    );
    assert_eq!(levels(&tape, "end"), ["sell 10.1x150"]);
}

#[test]
fn an_instrument_that_was_left_out_before_is_not_silently_left_out_again() {
    let folder = TempDir::new().unwrap();
    let output = import_small(folder.path(), &["--instrument", "A.SH"]);
    assert!(output.status.success());
    let again = import_small(folder.path(), &["--instrument", "A.SH"]);
    assert!(String::from_utf8_lossy(&again.stderr).contains(" 0 events added, 6 there already"));
    let again = import_small(folder.path(), &["--instrument", "A.SH", "--report", "json"]);
    let report: serde_json::Value = serde_json::from_slice(&again.stdout).unwrap();
    assert!(again.stderr.is_empty() && report["files"].as_array().unwrap().len() == 2, "{report}");
    assert_eq!((&report["records"], &report["added"], &report["already"]), (&6.into(), &0.into(), &6.into()));
    assert_eq!((&report["filtered"], &report["durable"]), (&1.into(), &serde_json::Value::Null));
    let all = import_small(folder.path(), &[]);
    let said = String::from_utf8(all.stderr).unwrap();
    assert_eq!(all.status.code(), Some(1));
    assert!(said.contains("up to number 6, but no B.SH, which begins at number 4"), "{said}");
    let none = import_small(folder.path(), &["--instrument", "X.SH"]);
    assert!(String::from_utf8_lossy(&none.stderr).contains("no record of X.SH"));
    let elsewhere = import_small(folder.path(), &["--producer", "7", "--allow-overlap"]);
    assert!(elsewhere.status.success(), "{}", String::from_utf8_lossy(&elsewhere.stderr));
}

#[test]
fn files_that_have_grown_elsewhere_than_at_their_end_are_refused() {
    let folder = TempDir::new().unwrap();
    let tape = folder.path().join("tape");
    let [orders, trades] = small_day(folder.path());
    let whole = std::fs::read_to_string(&orders).unwrap();
    let import = || {
        let files = [text(&orders), text(&trades)];
        matchtape(
            &[&["import", "--format", "sse-l2", "--segment-mib", "4", "--data", text(&tape)], &files[..]]
                .concat(),
        )
    };
    let without = |sequence: &str| -> String {
        whole.split_inclusive('\n').filter(|line| !line.contains(&format!(",1,1,{sequence},"))).collect()
    };
    std::fs::write(&orders, without("5").replace(&order(5, "10,10,300,1,1,6,11,A.SH"), "")).unwrap();
    assert!(import().status.success());
    // At the end: the last one comes to what is there.
    std::fs::write(&orders, without("5")).unwrap();
    let said = String::from_utf8(import().stderr).unwrap();
    assert!(said.contains(" 1 events added, 6 there already"), "{said}");
    // In the middle: every number behind it is another record's.
    std::fs::write(&orders, &whole).unwrap();
    let output = import();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.code() == Some(1) && said.contains("the files have grown elsewhere than at their end"),
        "{said}"
    );
}

#[test]
fn a_file_of_another_format_makes_no_tape() {
    let folder = TempDir::new().unwrap();
    let (file, tape) = (folder.path().join("README.md"), folder.path().join("tape"));
    std::fs::write(&file, "# a file\n").unwrap();
    for format in ["sse-l2", "dbn-mbo"] {
        let (said, code) = fail(&["import", "--format", format, "--data", text(&tape), text(&file)]);
        assert!(code == 1 && said.contains("nothing was imported; is it of the format"), "{said}");
        assert!(!tape.exists());
    }
}

#[test]
fn a_source_whose_records_the_tape_has_from_another_one_is_refused() {
    for first in [0, 1] {
        let folder = TempDir::new().unwrap();
        let tape = folder.path().join("tape");
        let files = small_day(folder.path());
        let import = ["import", "--format", "sse-l2", "--segment-mib", "4", "--data", text(&tape)];
        // One file of the two was forgotten.
        succeed(&[&import[..], &[text(&files[first])]].concat());
        let visible = open(&tape).reader().visible();
        let both = import_small(folder.path(), &[]);
        let said = String::from_utf8(both.stderr).unwrap();
        assert!(both.status.code() == Some(1) && said.contains("the tape has events of A.SH from"), "{said}");
        assert!(said.contains("are one source and are imported together"), "{said}");
        let added = open(&tape).reader().visible();
        assert!(added <= visible.next(), "a term may have begun, and nothing else: {visible} {added}");
        let again = matchtape(&[&import[..], &[text(&files[first])]].concat());
        assert!(again.status.success(), "its own source goes on: {}", String::from_utf8_lossy(&again.stderr));
        let both = import_small(folder.path(), &["--allow-overlap"]);
        let said = String::from_utf8(both.stderr).unwrap();
        // The orders came before the trade, but for one.
        assert!(both.status.success() && said.contains("events before it are flagged late"), "{said}");
    }
}

#[test]
fn records_of_another_source_are_not_taken_for_those_under_the_same_producer() {
    let folder = TempDir::new().unwrap();
    let tape = folder.path().join("tape");
    let [orders, trades] = small_day(folder.path());
    let import = |file: &Path| {
        let tape = text(&tape);
        matchtape(&[
            "import",
            "--format",
            "sse-l2",
            "--producer",
            "5",
            "--segment-mib",
            "4",
            "--data",
            tape,
            text(file),
        ])
    };
    assert!(import(&orders).status.success());
    let output = import(&trades);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && said.contains("they are of another source"), "{said}");
    assert!(said.contains("leave --producer out"), "{said}");
    assert!(import(&orders).status.success(), "its own records are");
}

#[test]
fn a_reader_that_has_had_enough_ends_a_query_quietly() {
    use std::io::Read;
    let Some(data) = oracle::data() else { return };
    let folder = TempDir::new().unwrap();
    let tape = folder.path().join("tape");
    let cme = dbn_file(&data, "esh4-glbx-mdp3-20231225.mbo.dbn");
    succeed(&["import", "--format", "dbn-mbo", "--segment-mib", "8", "--data", text(&tape), text(&cme)]);
    for format in ["ndjson", "csv", "table"] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_matchtape"))
            .args(["query", "events", "--data", text(&tape), "--format", format])
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = child.stdout.take().unwrap();
        out.read_exact(&mut [0; 100]).unwrap();
        drop(out);
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{format}");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "", "{format}");
    }
}

#[test]
fn help_shows_examples_and_every_command() {
    let help = succeed(&["--help"]);
    for word in ["import", "query", "inspect", "verify", "Examples:", "Exit codes"] {
        assert!(help.contains(word), "{word}");
    }
    for command in [&["import"][..], &["query"], &["inspect"], &["verify"]] {
        let help = succeed(&[command, &["--help"]].concat());
        assert!(help.contains("Examples:"), "{command:?}");
    }
    assert_eq!(fail(&["query"]).1, 2);
}

#[test]
fn tables_are_merged_on_request_and_a_directory_without_a_store_stays_without_one() {
    let folder = TempDir::new().unwrap();
    let tape = folder.path().join("tape");
    // Six lives of a node, each leaving tables of its own.
    for life in 0..6u64 {
        let options = matchtape_node::NodeOptions::default();
        let mut options = matchtape_node::NodeOptions { name: "test".to_owned(), ..options };
        options.store.wal.segment_bytes = 1 << 20;
        let node = matchtape_node::Node::open(&tape, options, matchtape_market::projections()).unwrap();
        let mut publisher = node.publisher(ProducerId(1)).unwrap();
        for number in 1..=20 {
            let body =
                matchtape_schemas::event::OrderAccepted { order_id: OrderId(number), ..Default::default() };
            let event = matchtape_schemas::event::Event::new(
                InstrumentId(1),
                ProducerSequence(life * 20 + number),
                EventTime(1),
                body,
            );
            publisher.publish(&event).unwrap();
        }
        drop(publisher);
        node.close().unwrap();
    }
    let report: serde_json::Value =
        serde_json::from_str(&succeed(&["compact", "--data", text(&tape), "--format", "json"])).unwrap();
    assert!(report["before"]["index_tables"].as_u64().unwrap() > 1, "{report}");
    assert_eq!(report["after"]["tables_per_lookup"], 1, "{report}");
    let said = succeed(&["compact", "--data", text(&tape), "--format", "text"]);
    assert!(said.contains("a lookup asks at most 1 index tables"), "{said}");
    succeed(&["verify", "--data", text(&tape)]);
    assert!(succeed(&["inspect", "--data", text(&tape), "--format", "text"]).contains("level 1"));
    let (said, code) = fail(&["compact", "--data", text(&folder.path().join("nothing"))]);
    assert!(code == 1 && said.contains("has to be the directory"), "{said}");
    assert!(!folder.path().join("nothing").exists());
}
