//! What opening a bus finds out, and how it says it.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use matchtape_bus::{
    BusConfig, BusError, BusName, BusPublisher, BusService, BusSubscriber, SubscriberOptions, WakeUp,
};
use matchtape_schemas::{Head, TapeId};
use support::{Place, TAPE, small};

fn subscribe(name: &BusName, service: BusService) -> Result<BusSubscriber, BusError> {
    BusSubscriber::open(name, service, &SubscriberOptions::default())
}

fn peer(place: &Place, role: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bus-test-peer"));
    command.arg(place.root.path()).args([place.name.namespace(), role]).env_remove("IOX2_LOG_LEVEL");
    command
}

fn static_config_files(place: &Place) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(place.root.path().join("services")).expect("services");
    entries.map(|entry| entry.expect("entry").path()).collect()
}

#[test]
fn a_bus_is_found_by_its_whole_name_only() {
    let place = Place::new("whole");
    let head = Head::empty(TAPE);
    assert!(matches!(subscribe(&place.name, BusService::Live), Err(BusError::NotFound { .. })));
    let publisher = place.publisher(BusService::Live, &small(), &head);
    subscribe(&place.name, BusService::Live).expect("the very one");
    assert!(matches!(subscribe(&place.name, BusService::Speculative), Err(BusError::NotFound { .. })));
    let (namespace, root) = (place.name.namespace(), place.root.path());
    let other_tape = BusName::with_root(namespace, TapeId(43), root).expect("name");
    assert!(matches!(subscribe(&other_tape, BusService::Live), Err(BusError::NotFound { .. })));
    let other_instance = Place::new("whole-other");
    let neighbour = BusName::with_root(other_instance.name.namespace(), TAPE, root).expect("name");
    assert!(matches!(subscribe(&neighbour, BusService::Live), Err(BusError::NotFound { .. })));
    drop(publisher);
    assert!(matches!(subscribe(&place.name, BusService::Live), Err(BusError::NotFound { .. })));
    // Nothing else is said of it, by iceoryx2 least of all: in a process of its own, its log level has not been touched.
    let output = peer(&place, "open").output().expect("child");
    assert!(output.stdout.starts_with(b"NotFound"), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn the_memory_computed_is_the_memory_used() {
    for config in [small(), BusConfig::default(), BusConfig { wake_up: WakeUp::BusyPoll, ..small() }] {
        let place = Place::new("memory");
        let _publisher = place.publisher(BusService::Live, &config, &Head::empty(TAPE));
        let slots = config.subscribers_max + config.subscribers_spare;
        let options = SubscriberOptions { wake_up: config.wake_up, ..SubscriberOptions::default() };
        let open = || BusSubscriber::open(&place.name, BusService::Live, &options);
        let subscribers: Vec<_> = (0..slots).map(|_| open().expect("subscriber")).collect();
        match open() {
            Err(BusError::NoFreeSlot { what: "subscriber" | "listener", slots: found, .. }) => {
                assert_eq!(found, slots)
            }
            other => panic!("{other:?}"),
        }
        let sizes = place.shared_memory();
        let used: u64 = sizes.iter().map(|path| path.metadata().expect("metadata").len()).sum();
        let required = config.memory_required().total_bytes() as u64;
        assert!(used <= required, "{used} used, {required} computed");
        assert!(required - used < required / 10 + 256 * 1024, "{used} used, {required} computed");
        drop(subscribers);
    }
}

#[test]
fn sizes_are_fixed_while_a_subscriber_lives() {
    let place = Place::new("sizes");
    let head = Head::empty(TAPE);
    let publisher = place.publisher(BusService::Live, &small(), &head);
    let subscriber = subscribe(&place.name, BusService::Live).expect("subscriber");
    drop(publisher);
    let larger = [
        ("buffer_samples", BusConfig { buffer_samples: 5, ..small() }),
        ("borrowed_samples", BusConfig { borrowed_samples: 3, ..small() }),
        ("subscribers_max", BusConfig { subscribers_max: 9, ..small() }),
        ("heartbeat_interval", BusConfig { heartbeat_interval: 3 * small().heartbeat_interval, ..small() }),
    ];
    for (field, config) in &larger {
        match BusPublisher::open(&place.name, BusService::Live, config, &head) {
            Err(error @ BusError::ConfigChanged { .. }) => {
                assert!(error.to_string().contains(field), "{error}")
            }
            other => panic!("{other:?}"),
        }
    }
    drop(place.publisher(BusService::Live, &small(), &head));
    assert_eq!(subscriber.heartbeat_interval(), small().heartbeat_interval);
    drop(subscriber);
    for (_, config) in &larger {
        let publisher = place.publisher(BusService::Live, config, &head);
        let subscriber = subscribe(&place.name, BusService::Live).expect("subscriber");
        assert_eq!(subscriber.heartbeat_interval(), config.heartbeat_interval);
        drop((subscriber, publisher));
    }
}

#[test]
fn whoever_sleeps_keeps_a_publisher_that_wakes() {
    let place = Place::new("sleepers");
    let head = Head::empty(TAPE);
    let publisher = place.publisher(BusService::Live, &small(), &head);
    let sleeper = subscribe(&place.name, BusService::Live).expect("subscriber");
    drop(publisher);
    let polled = BusConfig { wake_up: WakeUp::BusyPoll, ..small() };
    match BusPublisher::open(&place.name, BusService::Live, &polled, &head) {
        Err(error @ BusError::ConfigChanged { .. }) => {
            assert!(error.to_string().contains("wake_up"), "{error}")
        }
        other => panic!("{other:?}"),
    }
    drop(place.publisher(BusService::Live, &small(), &head));
    drop(sleeper);
    // Where nobody sleeps, both ways.
    let publisher = place.publisher(BusService::Live, &polled, &head);
    let options = SubscriberOptions { wake_up: WakeUp::BusyPoll, ..SubscriberOptions::default() };
    let _poller = BusSubscriber::open(&place.name, BusService::Live, &options).expect("subscriber");
    drop(publisher);
    drop(place.publisher(BusService::Live, &small(), &head));
    drop(place.publisher(BusService::Live, &polled, &head));
}

/// Writes to the files that say what a service is like; undone by giving back what is returned.
fn rewrite(files: &[PathBuf], contents: impl Fn(usize, Vec<u8>) -> Vec<u8>) -> Vec<Vec<u8>> {
    let mut originals = Vec::new();
    for (index, path) in files.iter().enumerate() {
        let original = std::fs::read(path).expect("read");
        let mode = path.metadata().expect("metadata").permissions();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
        std::fs::write(path, contents(index, original.clone())).expect("write");
        std::fs::set_permissions(path, mode).expect("chmod");
        originals.push(original);
    }
    originals
}

#[test]
fn a_bus_of_another_version_of_iceoryx2_is_refused_as_that() {
    let place = Place::new("version");
    let publisher = place.publisher(BusService::Live, &small(), &Head::empty(TAPE));
    let files = static_config_files(&place);
    let originals = rewrite(&files, |_, text| {
        let text = String::from_utf8(text).expect("text");
        let (before, version) = text.split_once("iceoryx2_version").expect("it says its version");
        let newer = version.replacen("10", "11", 1);
        assert_ne!(newer, version, "{version}");
        format!("{before}iceoryx2_version{newer}").into_bytes()
    });
    let attempts = [
        subscribe(&place.name, BusService::Live).err(),
        BusPublisher::open(&place.name, BusService::Live, &small(), &Head::empty(TAPE)).err(),
    ];
    for error in attempts {
        match error {
            Some(error @ BusError::IceoryxVersion { .. }) => {
                assert!(error.to_string().contains("stop the old processes"), "{error}")
            }
            other => panic!("{other:?}"),
        }
    }
    rewrite(&files, |index, _| originals[index].clone());
    drop(publisher);
}

#[test]
fn damaged_service_files_are_reported_with_what_to_remove() {
    let place = Place::new("damaged");
    let publisher = place.publisher(BusService::Live, &small(), &Head::empty(TAPE));
    let files = static_config_files(&place);
    assert!(!files.is_empty());
    let originals = rewrite(&files, |_, _| b"this is no service".to_vec());
    match subscribe(&place.name, BusService::Live) {
        Err(error @ BusError::Corrupted { .. }) => {
            let text = error.to_string();
            for part in [place.name.prefix(), place.root.path().display().to_string(), "remove".into()] {
                assert!(text.contains(&part), "{text}");
            }
        }
        other => panic!("{other:?}"),
    }
    rewrite(&files, |index, _| originals[index].clone());
    subscribe(&place.name, BusService::Live).expect("whole again");
    drop(publisher);
}

#[test]
fn a_folder_of_another_user_is_reported_as_such() {
    let place = Place::new("foreign");
    let publisher = place.publisher(BusService::Live, &small(), &Head::empty(TAPE));
    // All of it; and one that is open to everybody, where the other user came first.
    for shared in [false, true] {
        let closed = if shared { place.root.path().join("nodes") } else { place.root.path().to_owned() };
        let mode = |path: &std::path::Path| std::fs::metadata(path).expect("metadata").permissions();
        let before = (mode(place.root.path()), mode(&closed));
        if shared {
            let open = std::fs::Permissions::from_mode(0o777);
            std::fs::set_permissions(place.root.path(), open).expect("chmod");
        }
        let mut command = peer(&place, "open");
        if rustix::process::getuid().is_root() {
            // Root passes every permission; "nobody" does not.
            command.uid(65534).gid(65534);
        } else {
            std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o0)).expect("chmod");
        }
        let output = command.output();
        std::fs::set_permissions(place.root.path(), before.0).expect("chmod");
        std::fs::set_permissions(&closed, before.1).expect("chmod");
        let text = String::from_utf8(output.expect("child").stdout).expect("text");
        assert!(text.starts_with("PermissionDenied"), "{text}");
        assert!(text.contains("same user"), "{text}");
    }
    drop(publisher);
}

#[test]
fn a_bus_too_large_for_shared_memory_is_refused_before_it_is_made() {
    let place = Place::new("large");
    let config = BusConfig { subscribers_max: 1 << 20, ..BusConfig::default() };
    match BusPublisher::open(&place.name, BusService::Live, &config, &Head::empty(TAPE)) {
        Err(BusError::NotEnoughSharedMemory { required, available_bytes, .. }) => {
            assert!(required.total_bytes() as u64 > available_bytes);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(place.leftovers(), Vec::<String>::new());
}
