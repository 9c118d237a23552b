//! Tells the service manager that started the process how far it is: sd_notify(3), what a systemd unit with
//! `Type=notify` waits for. Where nothing listens, nobody is told.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Ready to be used, and in words what it is doing.
pub(super) fn ready(status: &str) {
    tell(&format!("READY=1\nSTATUS={status}"));
}

/// Asked to stop, and doing so.
pub(super) fn stopping(status: &str) {
    tell(&format!("STOPPING=1\nSTATUS={status}"));
}

fn tell(state: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    // The node is as well without its manager; that one gives up waiting by itself, and says so.
    if let Err(error) = send(&socket, state) {
        tracing::warn!("the service manager at {} cannot be told: {error}", socket.display());
    }
}

fn send(socket: &OsStr, state: &str) -> io::Result<()> {
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_is_told_at_a_path_and_at_an_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let name = format!("matchtape-notify-{}", std::process::id());
        let mut abstract_name = std::ffi::OsString::from("@");
        abstract_name.push(&name);
        let at_path = UnixDatagram::bind(&path).unwrap();
        let at_name =
            UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name.as_bytes()).unwrap()).unwrap();
        for (manager, socket) in [(at_path, path.into_os_string()), (at_name, abstract_name)] {
            send(&socket, "READY=1\nSTATUS=well").unwrap();
            let mut bytes = [0; 64];
            let length = manager.recv(&mut bytes).unwrap();
            assert_eq!(&bytes[..length], b"READY=1\nSTATUS=well");
        }
        assert!(send(folder.path().join("nobody").as_os_str(), "READY=1").is_err());
    }
}
