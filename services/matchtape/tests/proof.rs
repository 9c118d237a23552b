//! `matchtape proof` as an exchange and its auditor use it: the auditor has the frames, the proof and the roots, and no tape.

mod shared_memory;
mod shown;
mod watched;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use matchtape_node::{Node, NodeOptions};
use matchtape_schemas::event::OrderCancelled;
use matchtape_schemas::*;
use serde_json::Value;
use tempfile::TempDir;
use watched::Bus;

fn matchtape(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_matchtape")).args(args).output().unwrap()
}

/// The standard output of a command that has to succeed.
fn done(args: &[&str]) -> String {
    let output = matchtape(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What a command that has to fail says.
fn refused(code: i32, args: &[&str]) -> String {
    let output = matchtape(args);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stderr).unwrap()
}

/// A tape of at least three sealed segments, closed.
struct Tape {
    folder: TempDir,
}

impl Tape {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let mut options = NodeOptions::default();
        options.store.wal.segment_bytes = 1 << 20;
        let node = Node::open(&folder.path().join("tape"), options, Vec::new()).unwrap();
        let mut publisher = node.publisher(ProducerId(1)).unwrap();
        let mut number = 0;
        while node.store().segment_facts().len() < 3 {
            let group: Vec<_> = (0..200)
                .map(|_| {
                    number += 1;
                    let body = OrderCancelled { order_id: OrderId(number), ..Default::default() };
                    Event::new(InstrumentId(1), ProducerSequence(number), EventTime(number as i64), body)
                })
                .collect();
            let last = publisher.publish_group(&group).unwrap().sequence();
            node.wait(last, Stage::Visible).unwrap();
        }
        drop(publisher);
        node.close().unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn roots(&self) -> Vec<Value> {
        let data = self.path("tape");
        let lines = done(&["proof", "roots", "--data", text(&data)]);
        std::fs::write(self.path("roots.jsonl"), &lines).unwrap();
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn an_auditor_checks_a_run_across_segments_with_published_roots_and_without_the_tape() {
    let tape = Tape::new();
    let roots = tape.roots();
    assert!(roots.len() >= 3);
    let (data, proof, published) = (tape.path("tape"), tape.path("run.proof"), tape.path("roots.jsonl"));
    let second = roots[1]["first_sequence"].as_u64().unwrap();
    let (from, to) = ((second - 500).to_string(), (second + 500).to_string());
    let made =
        done(&["proof", "make", "--data", text(&data), "--from", &from, "--to", &to, "--out", text(&proof)]);
    let made: Value = serde_json::from_str(&made).unwrap();
    assert!(made["first_sequence"].as_u64() <= from.parse().ok(), "{made}");
    assert!(made["last_sequence"].as_u64() >= to.parse().ok(), "{made}");
    assert_eq!(made["segments"].as_array().unwrap().len(), 2);
    let (first, last) = (made["first_sequence"].to_string(), made["last_sequence"].to_string());
    let rows = done(&["query", "events", "--data", text(&data), "--from", &first, "--to", &last]);

    std::fs::rename(&data, tape.path("away")).unwrap();
    let checked = done(&["proof", "check", text(&proof), "--roots", text(&published)]);
    assert_eq!(serde_json::from_str::<Value>(&checked).unwrap(), made);
    let two: Vec<&str> = roots[..2].iter().map(|row| row["root"].as_str().unwrap()).collect();
    done(&["proof", "check", text(&proof), "--root", two[0], "--root", two[1]]);
    let shown = done(&["proof", "check", text(&proof), "--roots", text(&published), "--events", "ndjson"]);
    assert_eq!(shown, rows, "the rows of the proven frames are those of the tape");
    let said = done(&["proof", "check", text(&proof), "--roots", text(&published), "--format", "text"]);
    assert!(said.starts_with(&format!("proven   sequences {first} to {last}")), "{said}");

    let said = refused(2, &["proof", "check", text(&proof), "--root", two[0]]);
    assert!(said.contains("1 roots are given, the proof needs 2: those of the segments 1, 2"), "{said}");
    let said = refused(1, &["proof", "check", text(&proof), "--root", two[1], "--root", two[0]]);
    assert!(said.contains("not proven") && said.contains(two[1]), "{said}");
    let said = refused(2, &["proof", "check", text(&proof), "--root", "xyz"]);
    assert!(said.contains("64 hexadecimal digits"), "{said}");
    let said = refused(2, &["proof", "check", text(&proof)]);
    assert!(said.contains("--roots"), "{said}");

    done(&["proof", "check", text(&proof), "--data", text(&tape.path("away"))]);
}

#[test]
fn frames_that_were_altered_shortened_or_lengthened_are_not_proven_and_none_of_their_events_is_shown() {
    let tape = Tape::new();
    let roots = tape.roots();
    let (data, proof, published) = (tape.path("tape"), tape.path("run.proof"), tape.path("roots.jsonl"));
    done(&["proof", "make", "--data", text(&data), "--from", "300", "--to", "900", "--out", text(&proof)]);
    let frames = tape.path("run.frames");
    let whole = std::fs::read(&frames).unwrap();
    let check = |bytes: &[u8]| {
        std::fs::write(&frames, bytes).unwrap();
        let args = ["proof", "check", text(&proof), "--roots", text(&published), "--events", "csv"];
        let output = matchtape(&args);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
        String::from_utf8(output.stderr).unwrap()
    };
    let mut altered = whole.clone();
    altered[whole.len() / 2] ^= 1;
    let said = check(&altered);
    assert!(said.contains("not proven") && said.contains(roots[0]["root"].as_str().unwrap()), "{said}");
    let said = check(&whole[..whole.len() - 16]);
    assert!(said.contains(&format!(
        "{} bytes of frames, the proof is about {}",
        whole.len() - 16,
        whole.len()
    )));
    let said = check(&[&whole[..], &[0; 16]].concat());
    assert!(said.contains(&format!("{} bytes of frames", whole.len() + 16)), "{said}");
    check(&[]);

    std::fs::write(&frames, &whole).unwrap();
    done(&["proof", "check", text(&proof), "--roots", text(&published)]);
    let mut bent = std::fs::read(&proof).unwrap();
    bent[60] ^= 1;
    std::fs::write(&proof, &bent).unwrap();
    let said = refused(1, &["proof", "check", text(&proof), "--roots", text(&published)]);
    assert!(said.contains("run.proof at byte") && said.contains("get it anew"), "{said}");
    std::fs::write(&published, "{\"segment\": 1}\n").unwrap();
    let said = refused(1, &["proof", "check", text(&proof), "--roots", text(&published)]);
    assert!(said.contains("run.proof at byte"), "the proof is read first: {said}");
}

#[test]
fn what_cannot_be_proven_or_would_be_written_over_is_refused_and_leaves_no_file() {
    let tape = Tape::new();
    let sealed = tape.roots().last().unwrap()["last_sequence"].as_u64().unwrap();
    let (data, proof) = (tape.path("tape"), tape.path("run.proof"));
    let make = |from: &str, to: &str, out: &Path| {
        refused(1, &["proof", "make", "--data", text(&data), "--from", from, "--to", to, "--out", text(out)])
    };
    let beyond = (sealed + 1).to_string();
    let said = make("1", &beyond, &proof);
    assert!(said.contains(&format!("sequence {beyond} is not sealed yet")), "{said}");
    assert!(said.contains(&format!("what is sealed ends at sequence {sealed}")), "{said}");
    assert!(said.contains(&format!("matchtape seal --data {}", text(&data))), "{said}");
    let said = make("1", "99999999", &proof);
    assert!(said.contains("the tape ends at sequence"), "{said}");
    assert!(make("9", "8", &proof).contains("nothing from sequence 9 to 8"));
    assert!(make("0", "8", &proof).contains("nothing from sequence 0 to 8"));
    assert!(!proof.exists() && !tape.path("run.frames").exists(), "nothing half-made stays");
    std::fs::write(tape.path("run.frames"), "mine").unwrap();
    let said = make("1", "8", &proof);
    assert!(said.contains("run.frames exists"), "{said}");
    assert_eq!(std::fs::read(tape.path("run.frames")).unwrap(), b"mine");
    assert!(!proof.exists());
    let same = ["proof", "make", "--data", text(&data), "--out", text(&proof), "--frames", text(&proof)];
    assert!(refused(2, &same).contains("the same file"));
    let said = refused(1, &["proof", "make", "--data", text(&tape.path("none")), "--out", text(&proof)]);
    assert!(said.contains("has to be the directory"), "{said}");
    let said = refused(1, &["proof", "check", text(&proof), "--data", text(&data)]);
    assert!(said.contains("run.proof"), "{said}");
}

/// Runs openssl; `None` where there is none that knows how to sign a file with Ed25519.
fn openssl(args: &[&str]) -> Option<Output> {
    let version = Command::new("openssl").arg("version").output().ok()?;
    let text = String::from_utf8_lossy(&version.stdout).into_owned();
    let major = text.strip_prefix("OpenSSL ")?.split('.').next()?.parse::<u32>().ok()?;
    (major >= 3).then(|| Command::new("openssl").args(args).output().unwrap())
}

/// The key of RFC 8032, 7.1, test 2.
const KEY: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIEzNCJso/5banbbDRuwRTg9bijGfNaumJNqM9u1PuKb7
-----END PRIVATE KEY-----
";
const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAPUAXw+hDiVqStwqnTRt+vJyYLM8uxJaMwM1V8Sr0Zgw=
-----END PUBLIC KEY-----
";

#[test]
fn roots_are_trusted_only_as_whoever_vouches_for_them_has_signed_them_and_openssl_agrees() {
    let tape = Tape::new();
    let plain = tape.roots().len();
    let (data, proof) = (tape.path("tape"), tape.path("run.proof"));
    done(&["proof", "make", "--data", text(&data), "--from", "300", "--to", "900", "--out", text(&proof)]);
    let (key, public, roots) = (tape.path("key.pem"), tape.path("public.pem"), tape.path("signed.jsonl"));
    std::fs::write(&key, KEY).unwrap();
    std::fs::write(&public, PUBLIC).unwrap();
    let sign = ["proof", "roots", "--data", text(&data), "--out", text(&roots), "--sign", text(&key)];
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let said = refused(1, &sign);
    assert!(said.contains("mode 0644") && said.contains("chmod 600") && !roots.exists(), "{said}");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(done(&sign), "");
    let bytes = std::fs::read(&roots).unwrap();
    assert_eq!(bytes, std::fs::read(tape.path("roots.jsonl")).unwrap(), "as it is without a signature");
    assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), plain);
    assert!(refused(1, &sign).contains("signed.jsonl exists"));
    assert!(refused(2, &["proof", "roots", "--data", text(&data), "--sign", text(&key)]).contains("--out"));

    let check = ["proof", "check", text(&proof), "--roots", text(&roots), "--signed-by", text(&public)];
    done(&check);
    let signature = tape.path("signed.jsonl.sig");
    let elsewhere = tape.path("elsewhere");
    std::fs::rename(&signature, &elsewhere).unwrap();
    let said = refused(1, &check);
    assert!(said.contains("signed.jsonl.sig: ") && said.contains("--signature names another"), "{said}");
    done(&[&check[..], &["--signature", text(&elsewhere)]].concat());
    std::fs::rename(&elsewhere, &signature).unwrap();

    // A root that somebody has exchanged, by one that the altered frames would have.
    let mut altered = bytes.clone();
    let place = bytes.len() - 10;
    altered[place] = if bytes[place] == b'0' { b'1' } else { b'0' };
    std::fs::write(&roots, &altered).unwrap();
    let said = refused(1, &check);
    assert!(
        said.contains("signed.jsonl: not signed, as it is, by the key of") && !said.contains("proven"),
        "{said}"
    );
    done(&["proof", "check", text(&proof), "--roots", text(&roots)]);
    std::fs::write(&roots, &bytes).unwrap();
    done(&check);

    // What openssl makes is taken, and it takes what is made here.
    let (other, other_public) = (tape.path("other.pem"), tape.path("other-public.pem"));
    if openssl(&["genpkey", "-algorithm", "ed25519", "-out", text(&other)]).is_none() {
        eprintln!("no openssl 3 here: only the standard's key was tried");
        return;
    }
    let worked = |args: &[&str]| {
        let output = openssl(args).unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let verify =
        ["pkeyutl", "-verify", "-rawin", "-pubin", "-in", text(&roots), "-sigfile", text(&signature)];
    worked(&[&verify[..], &["-inkey", text(&public)]].concat());
    worked(&["pkey", "-in", text(&other), "-pubout", "-out", text(&other_public)]);
    let by_other =
        ["proof", "check", text(&proof), "--roots", text(&roots), "--signed-by", text(&other_public)];
    assert!(refused(1, &by_other).contains("not signed"));
    worked(&[
        "pkeyutl",
        "-sign",
        "-rawin",
        "-inkey",
        text(&other),
        "-in",
        text(&roots),
        "-out",
        text(&signature),
    ]);
    done(&by_other);
    assert!(refused(1, &check).contains("not signed"));
    std::fs::remove_file(&roots).unwrap();
    std::fs::remove_file(&signature).unwrap();
    done(&["proof", "roots", "--data", text(&data), "--out", text(&roots), "--sign", text(&other)]);
    worked(&[&verify[..], &["-inkey", text(&other_public)]].concat());
}

const ORDERS: &str = "MDDate,MDTime,SecurityType,SecuritySubType,SecurityIDSource,Symbol,ReceiveDateTime,OrderIndex,OrderType,\
    OrderPrice,OrderQty,OrderBSFlag,ChannelNo,ApplSeqNum,OrderNO,SecurityID
2023.07.11,09:30:01.000,2,02001,101,n,2023.07.11T09:30:01.001,1,2,10.5,300,1,1,1,11,A.SH
2023.07.11,09:30:02.000,2,02001,101,n,2023.07.11T09:30:02.001,1,2,10.6,200,2,1,2,12,A.SH
";
const TRADES: &str = "MDDate,MDTime,SecurityType,SecuritySubType,SecurityIDSource,Symbol,TradingPhaseCode,TradeIndex,TradeBuyNo,\
    TradeSellNo,TradeType,TradeBSFlag,TradePrice,TradeQty,TradeMoney,ReceiveDateTime,NumTrades,ChannelNo,ApplSeqNum,SecurityID
";

#[test]
fn a_small_import_is_sealed_on_demand_at_rest_and_in_a_running_node_and_proven_to_its_end() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (data, orders, trades) = (path("tape"), path("orders.csv"), path("trades.csv"));
    std::fs::write(&orders, ORDERS).unwrap();
    std::fs::write(&trades, TRADES).unwrap();
    let import = ["import", "--format", "sse-l2", "--segment-mib", "4", "--data", text(&data)];
    done(&[&import[..], &[text(&orders), text(&trades)]].concat());
    let make = |to: &str, out: &Path| {
        matchtape(&["proof", "make", "--data", text(&data), "--from", "1", "--to", to, "--out", text(out)])
    };
    // Epoch, instrument, two orders; nothing of it is in a sealed segment.
    let first = path("first.proof");
    let said = String::from_utf8(make("4", &first).stderr).unwrap();
    assert!(said.contains("no segment is sealed yet"), "{said}");
    assert!(said.contains(&format!("matchtape seal --data {}", text(&data))), "{said}");
    let seal = ["seal", "--data", text(&data)];
    let sealed: Value = serde_json::from_str(&done(&seal)).unwrap();
    assert_eq!((&sealed["sealed"], &sealed["through"]), (&true.into(), &5.into()), "{sealed}");
    assert!(make("4", &first).status.success());
    let root = sealed["segment"]["root"].as_str().unwrap();
    done(&["proof", "check", text(&first), "--root", root]);
    assert_eq!(
        done(&[&seal[..], &["--format", "text"]].concat()),
        "everything is sealed already, through sequence 5\n"
    );

    // A running node: the order that came later, and its proof beside it.
    let mut bus = Bus::new("proof");
    let mut node = Command::new(env!("CARGO_BIN_EXE_matchtape"))
        .args(["serve", "--data", text(&data), "--listen", "127.0.0.1:0"])
        .env("MATCHTAPE_STORAGE__SEGMENT_MIB", "4")
        .envs(bus.settings())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let said = BufReader::new(node.stdout.take().unwrap()).lines().map_while(Result::ok);
    let page =
        said.filter_map(|line| line.strip_prefix("page ").map(str::to_owned)).next().expect("its page");
    let server = page.trim_end_matches('/');
    bus.watch(&data);
    done(&["state", "put", "limits/A.SH", "5000", "--server", server]);
    let tail: Value =
        serde_json::from_str(done(&["query", "events", "--server", server]).lines().last().unwrap()).unwrap();
    let to = tail["sequence"].to_string();
    shown::until_shown(&data, Sequence(tail["sequence"].as_u64().unwrap()));
    let second = path("second.proof");
    let said = String::from_utf8(make(&to, &second).stderr).unwrap();
    assert!(said.contains("is not sealed yet: what is sealed ends at sequence 5"), "{said}");
    let said = done(&["seal", "--server", server, "--format", "text"]);
    assert!(said.starts_with("sealed  segment      2  "), "{said}");
    assert!(make(&to, &second).status.success());
    bus.ends_clean();
    node.kill().unwrap();
    node.wait().unwrap();
    done(&["proof", "check", text(&second), "--data", text(&data)]);

    let said = refused(2, &["seal"]);
    assert!(said.contains("--data") && said.contains("--server"), "{said}");
    let said = refused(1, &["seal", "--data", text(&path("none"))]);
    assert!(said.contains("has to be the directory"), "{said}");
    let said = refused(1, &["seal", "--server", server]);
    assert!(said.contains("--server names what"), "{said}");
}
