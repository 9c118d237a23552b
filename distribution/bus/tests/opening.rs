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
fn damaged_service_files_are_reported_with_what_to_remove() {
    let place = Place::new("damaged");
    let publisher = place.publisher(BusService::Live, &small(), &Head::empty(TAPE));
    let files = static_config_files(&place);
    assert!(!files.is_empty());
    let originals: Vec<_> = files.iter().map(|path| std::fs::read(path).expect("read")).collect();
    let write = |contents: &dyn Fn(usize) -> Vec<u8>| {
        for (index, path) in files.iter().enumerate() {
            let mode = path.metadata().expect("metadata").permissions();
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
            std::fs::write(path, contents(index)).expect("write");
            std::fs::set_permissions(path, mode).expect("chmod");
        }
    };
    write(&|_| b"this is no service".to_vec());
    match subscribe(&place.name, BusService::Live) {
        Err(error @ BusError::Corrupted { .. }) => {
            let text = error.to_string();
            for part in [place.name.prefix(), place.root.path().display().to_string(), "remove".into()] {
                assert!(text.contains(&part), "{text}");
            }
        }
        other => panic!("{other:?}"),
    }
    write(&|index| originals[index].clone());
    subscribe(&place.name, BusService::Live).expect("whole again");
    drop(publisher);
}

#[test]
fn a_folder_of_another_user_is_reported_as_such() {
    let place = Place::new("foreign");
    let publisher = place.publisher(BusService::Live, &small(), &Head::empty(TAPE));
    let open = std::fs::metadata(place.root.path()).expect("metadata").permissions();
    let mut command = Command::new(env!("CARGO_BIN_EXE_bus-test-peer"));
    command.arg(place.root.path()).args([place.name.namespace(), "open"]);
    if rustix::process::getuid().is_root() {
        // Root passes every permission; "nobody" does not.
        command.uid(65534).gid(65534);
    } else {
        std::fs::set_permissions(place.root.path(), std::fs::Permissions::from_mode(0o0)).expect("chmod");
    }
    let output = command.output();
    std::fs::set_permissions(place.root.path(), open).expect("chmod");
    let text = String::from_utf8(output.expect("child").stdout).expect("text");
    assert!(text.starts_with("PermissionDenied"), "{text}");
    assert!(text.contains("same user"), "{text}");
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
