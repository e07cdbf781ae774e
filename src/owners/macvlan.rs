//! Who put a macvlan on a NIC: libvirt's domains and Docker's networks, by
//! name, where they can be known.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::model::IfName;

/// Where libvirt keeps the state of running domains.
const LIBVIRT: &str = "/run/libvirt/qemu";
/// Where Docker answers.
const DOCKER: &str = "/run/docker.sock";
/// How long Docker may take, and how much it may say.
const PATIENCE: Duration = Duration::from_secs(1);
const LONGEST: u64 = 4 << 20;

/// A sentence that names whose the macvlans `children` on `uplink` are; none
/// where nobody who can be asked knows.
pub fn users(uplink: &IfName, children: &[&IfName]) -> Option<String> {
    let domains = domains(Path::new(LIBVIRT), children);
    let networks = networks(Path::new(DOCKER), uplink).unwrap_or_default();
    let list = |what: &str, names: &[String]| match names {
        [] => None,
        names => Some(format!("{what} {}", names.join(", "))),
    };
    let parts: Vec<String> = [
        list("the libvirt domain", &domains),
        list("the Docker network", &networks),
    ]
    .into_iter()
    .flatten()
    .collect();
    if parts.is_empty() {
        None
    } else {
        Some(format!("in use by {}", parts.join(" and ")))
    }
}

/// Domains whose state names one of the devices as an interface's target.
fn domains(directory: &Path, devices: &[&IfName]) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        let is_state = path.extension().is_some_and(|extension| extension == "xml");
        let Some(name) = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .filter(|_| is_state)
        else {
            continue;
        };
        let text = fs::read_to_string(&path).unwrap_or_default();
        if devices
            .iter()
            .any(|device| text.contains(&format!("<target dev='{device}'")))
        {
            found.push(name.to_owned());
        }
    }
    found.sort();
    found
}

/// Docker's macvlan and ipvlan networks on the device (Docker Engine API,
/// `GET /networks`).
fn networks(socket: &Path, uplink: &IfName) -> io::Result<Vec<String>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /networks HTTP/1.0\r\nHost: docker\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(LONGEST).read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let networks: serde_json::Value = serde_json::from_str(body)?;
    let on_uplink = |network: &&serde_json::Value| {
        ["macvlan", "ipvlan"]
            .iter()
            .any(|driver| network["Driver"] == *driver)
            && network["Options"]["parent"] == uplink.as_str()
    };
    let list = networks.as_array().map(Vec::as_slice).unwrap_or_default();
    Ok(list
        .iter()
        .filter(on_uplink)
        .filter_map(|n| n["Name"].as_str())
        .map(str::to_owned)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn name(text: &str) -> IfName {
        text.parse().unwrap()
    }

    fn scratch(test: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("vmbr-owners-{test}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn libvirts_domains_are_found_by_their_target() {
        let directory = scratch("libvirt");
        fs::write(
            directory.join("web.xml"),
            "<interface type='direct'><target dev='macvtap0'/></interface>",
        )
        .unwrap();
        fs::write(
            directory.join("db.xml"),
            "<interface type='direct'><target dev='macvtap01'/></interface>",
        )
        .unwrap();
        fs::write(directory.join("web.pid"), "<target dev='macvtap0'/>").unwrap();
        assert_eq!(domains(&directory, &[&name("macvtap0")]), ["web"]);
        assert!(domains(&directory.join("none"), &[&name("macvtap0")]).is_empty());
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn dockers_networks_are_found_by_their_parent() {
        let directory = scratch("docker");
        let path = directory.join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 64];
            let length = stream.read(&mut request).unwrap();
            assert!(request[..length].starts_with(b"GET /networks HTTP/1.0\r\n"));
            let body = r#"[{"Name":"lan","Driver":"macvlan","Options":{"parent":"eth0"}},
                {"Name":"far","Driver":"macvlan","Options":{"parent":"eth1"}},
                {"Name":"bridge","Driver":"bridge","Options":{}}]"#;
            write!(
                stream,
                "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{body}"
            )
            .unwrap();
        });
        assert_eq!(networks(&path, &name("eth0")).unwrap(), ["lan"]);
        server.join().unwrap();
        assert!(networks(&path, &name("eth0")).is_err(), "nobody listens any more");
        fs::remove_dir_all(directory).unwrap();
    }
}
