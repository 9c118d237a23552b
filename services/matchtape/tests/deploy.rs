//! What `deploy/` says is so: its configuration and unit start a node, its rules and its dashboard ask for numbers that this
//! node gives, its runbooks name commands that the binary takes, and every alert leads to its section.

mod shared_memory;
mod watched;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use shared_memory::Namespace;
use tempfile::TempDir;
use watched::Watched;

const BINARY: &str = env!("CARGO_BIN_EXE_matchtape");

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy")
}

fn read(file: &str) -> String {
    let path = deploy().join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What `ExecStart` gives to the binary, with the configuration where it lies here.
fn arguments_of_the_unit() -> Vec<String> {
    let unit = read("systemd/matchtape.service");
    let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("it starts something");
    let mut words = line.split(' ').map(str::to_owned);
    assert_eq!(words.next().unwrap(), "/usr/local/bin/matchtape");
    let config = deploy().join("matchtape.toml").to_str().unwrap().to_owned();
    words.map(|word| if word == "/etc/matchtape/matchtape.toml" { config.clone() } else { word }).collect()
}

/// A node as the unit starts it, but for where its files are, with a manager that listens.
struct Node {
    child: Child,
    manager: UnixDatagram,
    url: String,
    watched: Option<Watched>,
    folder: TempDir,
    namespace: Namespace,
}

impl Node {
    fn start() -> Self {
        let (folder, namespace) = (tempfile::tempdir().unwrap(), Namespace::new("deploy"));
        let socket = folder.path().join("notify");
        let manager = UnixDatagram::bind(&socket).unwrap();
        manager.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let child = Command::new(BINARY)
            .args(arguments_of_the_unit())
            .env("NOTIFY_SOCKET", &socket)
            .env("MATCHTAPE_NODE__DATA", folder.path().join("tape"))
            .env("MATCHTAPE_BUS__ROOT", folder.path().join("bus"))
            .env("MATCHTAPE_BUS__NAMESPACE", namespace.as_str())
            .env("MATCHTAPE_GATEWAY__LISTEN", "127.0.0.1:0")
            // Room on the machine of a test: a smaller log, a smaller bus.
            .env("MATCHTAPE_STORAGE__SEGMENT_MIB", "8")
            .env("MATCHTAPE_BUS__SUBSCRIBERS_MAX", "2")
            .env("MATCHTAPE_INGRESS__PRODUCERS_MAX", "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (url, watched) = (String::new(), None);
        let mut node = Self { child, manager, url, watched, folder, namespace };
        let mut said = BufReader::new(node.child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let page = said.find_map(|line| Some(line.strip_prefix("page ")?.to_owned()));
        node.url = page.expect("it says where its page is").trim_end_matches('/').to_owned();
        let said = node.told();
        assert!(said.starts_with("READY=1\nSTATUS=tape "), "{said}");
        let (tape, root) = (node.folder.path().join("tape"), node.folder.path().join("bus"));
        node.watched = Some(Watched::start(&tape, &node.namespace, &root));
        node
    }

    /// What the manager is told next.
    fn told(&self) -> String {
        let mut bytes = [0; 4096];
        let length = self.manager.recv(&mut bytes).expect("the manager is told something");
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    fn get(&self, path: &str) -> String {
        let address = self.url.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{path}: {head}");
        body.to_owned()
    }

    fn stop(mut self) {
        self.watched.take().expect("it was started").ends_clean();
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let said = self.told();
        assert!(said.starts_with("STOPPING=1\n"), "{said}");
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }
}

/// A test that fails leaves no node behind.
impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_shipped_configuration_passes_the_check_also_with_what_it_only_suggests() {
    let shipped = read("matchtape.toml");
    let mut suggested = shipped.clone();
    for key in ["pipeline_core", "log_core"] {
        let line = shipped.lines().find(|line| line.starts_with(&format!("# {key} = "))).expect(key);
        suggested = suggested.replace(line, &format!("{key} = 0"));
    }
    let folder = tempfile::tempdir().unwrap();
    for text in [shipped, suggested] {
        let file = folder.path().join("matchtape.toml");
        std::fs::write(&file, text).unwrap();
        // Its places need not be there on every machine.
        let output = Command::new(BINARY)
            .args(["config", "check", "--config"])
            .arg(&file)
            .env("MATCHTAPE_NODE__DATA", folder.path().join("tape"))
            .env("MATCHTAPE_BUS__ROOT", folder.path().join("bus"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// A label and the values that a selector names for it.
type Matcher<'a> = (&'a str, Vec<&'a str>);

/// The label matchers of a selector: `{a="b", c=~"d|e"}`.
fn matchers(selector: &str) -> Vec<Matcher<'_>> {
    let inside = selector.split_once('}').expect("a selector ends").0;
    let mut found = Vec::new();
    for matcher in inside.split(", ").filter(|matcher| !matcher.is_empty()) {
        let (label, value) = matcher.split_once(['=', '!']).unwrap_or_else(|| panic!("{matcher}"));
        let value = value.trim_start_matches(['=', '~']).trim_matches('"');
        found.push((label, value.split('|').collect()));
    }
    found
}

/// Every number that `text` names, with the labels asked for.
fn numbers_in(text: &str) -> Vec<(&str, Vec<Matcher<'_>>)> {
    let part_of_a_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    text.match_indices("matchtape_")
        .filter(|(at, _)| !text[..*at].ends_with(part_of_a_name))
        .map(|(at, _)| {
            let rest = &text[at..];
            let end = rest.find(|letter| !part_of_a_name(letter)).unwrap_or(rest.len());
            let labels = rest[end..].strip_prefix('{').map(matchers).unwrap_or_default();
            (&rest[..end], labels)
        })
        .collect()
}

/// The queries of the dashboard: every panel but the headings has some.
fn dashboard_queries() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&read("grafana/matchtape.json")).unwrap();
    let mut queries = Vec::new();
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "two panels are {}", panel["id"]);
        if panel["type"] == "row" {
            continue;
        }
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{}", panel["title"]);
        queries.extend(targets.iter().map(|target| target["expr"].as_str().unwrap().to_owned()));
    }
    for annotation in dashboard["annotations"]["list"].as_array().unwrap() {
        queries.push(annotation["expr"].as_str().unwrap().to_owned());
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    queries.extend(
        variables.iter().filter_map(|variable| Some(variable["query"]["query"].as_str()?.to_owned())),
    );
    queries
}

#[test]
fn a_node_started_as_the_unit_does_tells_its_manager_and_gives_every_number_that_is_asked_for() {
    let node = Node::start();
    let added =
        Command::new(BINARY).args(["consumer", "add", "risk", "--server", &node.url]).output().unwrap();
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    let given = node.get("/metrics");
    let samples: Vec<&str> = given.lines().filter(|line| !line.starts_with('#')).collect();
    let has = |name: &str, label: &str, value: &str| {
        let pair = format!("{label}=\"{value}\"");
        samples.iter().any(|sample| {
            sample
                .strip_prefix(name)
                .and_then(|rest| rest.strip_prefix('{'))
                .is_some_and(|rest| rest.split_once("} ").unwrap().0.split(',').any(|given| given == pair))
        })
    };
    let mut texts = vec![
        ("rules", read("prometheus/matchtape.rules.yml")),
        ("tests of the rules", read("prometheus/matchtape.tests.yml")),
        ("runbooks", read("runbooks.md")),
        ("README", read("README.md")),
    ];
    texts.extend(dashboard_queries().into_iter().map(|query| ("dashboard", query)));
    let mut named = BTreeSet::new();
    for (place, text) in &texts {
        for (name, labels) in numbers_in(text) {
            let is_given =
                |sample: &&str| sample.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
            assert!(samples.iter().any(is_given), "{place}: a node gives no {name}");
            named.insert(name);
            for (label, values) in labels {
                // Prometheus' own, and what people choose.
                if matches!(label, "instance" | "job" | "consumer" | "le") {
                    continue;
                }
                for value in values {
                    assert!(has(name, label, value), "{place}: no {name} has {label}=\"{value}\"");
                }
            }
        }
    }
    assert!(named.len() > 40, "the scan found {} names only", named.len());
    // The other way round: what a node gives is looked at by somebody.
    for sample in samples {
        let name = sample.split(['{', ' ']).next().unwrap();
        let family =
            ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        let looked_at = named.iter().any(|named| named.starts_with(family));
        assert!(looked_at || name == "matchtape_build_info", "nothing in deploy/ looks at {name}");
    }
    node.stop();
}

/// Command lines in Markdown: indented ones, and those between backticks.
fn commands(markdown: &str) -> BTreeSet<Vec<&str>> {
    let indented = markdown.lines().filter(|line| line.starts_with("    ")).map(str::trim);
    let inline = markdown.split('`').skip(1).step_by(2);
    indented
        .chain(inline)
        .filter_map(|text| {
            text.strip_prefix("matchtape ").or_else(|| text.strip_prefix("sudo -u matchtape matchtape "))
        })
        .map(|arguments| arguments.split_whitespace().collect())
        .collect()
}

/// Whether the binary knows the subcommand and every flag; what is missing is not asked for.
fn parses(arguments: &[&str]) -> bool {
    Command::new(BINARY).args(arguments).arg("--help").output().unwrap().status.success()
}

#[test]
fn every_command_that_is_written_down_is_one_that_the_binary_takes() {
    assert!(parses(&["backup", "--data", "x", "--to", "y"]));
    for wrong in [&["bakup", "--data", "x"][..], &["backup", "--dta", "x"], &["hold", "ad", "--data", "x"]] {
        assert!(!parses(wrong), "{wrong:?}");
    }
    for (file, at_least) in [("runbooks.md", 25), ("README.md", 2)] {
        let text = read(file);
        let commands = commands(&text);
        assert!(commands.len() >= at_least, "{file}: {commands:?}");
        for command in commands {
            assert!(parses(&command), "{file}: matchtape {}", command.join(" "));
        }
    }
}

/// The place in a page that a heading is linked by, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let kept = |letter: &char| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_');
    heading
        .to_lowercase()
        .chars()
        .filter(kept)
        .map(|letter| if letter == ' ' { '-' } else { letter })
        .collect()
}

#[test]
fn every_alert_leads_to_a_section_that_names_it_and_has_a_test_in_which_it_fires() {
    let (runbooks, tests) = (read("runbooks.md"), read("prometheus/matchtape.tests.yml"));
    let sections: Vec<(String, &str)> = runbooks
        .split("\n## ")
        .skip(1)
        .map(|section| (anchor(section.lines().next().unwrap()), section))
        .collect();
    let section = |link: &str| sections.iter().find(|(anchor, _)| anchor == link).map(|(_, text)| *text);
    assert_eq!(anchor("What `kill -9` leaves"), "what-kill--9-leaves");

    let rules = read("prometheus/matchtape.rules.yml");
    let alerts: Vec<&str> = rules.split("- alert: ").skip(1).collect();
    assert!(alerts.len() > 20);
    for alert in alerts {
        let name = alert.lines().next().unwrap();
        let (_, rest) =
            alert.split_once("runbook: \"deploy/runbooks.md#").unwrap_or_else(|| panic!("{name}"));
        let link = rest.split('"').next().unwrap();
        let text = section(link).unwrap_or_else(|| panic!("{name} leads to #{link}, which is not there"));
        assert!(text.contains(&format!("`{name}`")), "#{link} does not name {name}");
        let fires = format!("alertname: {name}\n        exp_alerts:\n          - exp_labels:");
        assert!(tests.contains(&fires), "no test makes {name} fire");
    }
    for link in runbooks.split("](#").skip(1).map(|rest| rest.split(')').next().unwrap()) {
        assert!(section(link).is_some(), "the runbooks link to #{link}, which is not there");
    }
    for word in runbooks.split('`').skip(1).step_by(2).filter(|word| word.starts_with("Matchtape")) {
        assert!(rules.contains(&format!("- alert: {word}\n")), "the runbooks name {word}, which is no alert");
    }
}
