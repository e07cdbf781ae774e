//! systemd-networkd (252 and newer), told by files under /run and D-Bus.
//!
//! # The way there
//!
//! The bridge gets a file of its own: what the uplink's file and its drop-ins
//! say, the identifiers of the client that asked for the lease (RFC 4361), and
//! `KeepConfiguration=yes`. With that networkd removes nothing from a device
//! that it did not configure before (`link_drop_foreign_config()` of
//! src/network/networkd-link.c), and its DHCP client asks for the address that
//! is there (`dhcp4_set_request_address()`, networkd-dhcp4.c). Before 255 it
//! does not know the metric of an address that it did not set itself, so the
//! route to the bridge's IPv4 prefix gets none. Only when it has the lease the
//! uplink becomes `Unmanaged=yes`: its client is stopped, and its release does
//! not reach the server.
//!
//! # The way back
//!
//! When a port leaves its bridge the kernel says `RTM_DELLINK` of the bridge's
//! side of it, and networkd forgets the device and learns it anew
//! (`manager_rtnl_process_link()`). What it does not know it does not remove:
//! its own file, unchanged, configures the uplink again around the addresses
//! that are there. What it needs to know and does not ask for is shown to it once
//! more: the link-local address, without which it would not begin with IPv6,
//! and the ways to the gateways. Where it does know them (it was started
//! in between), a drop-in has it keep what is there. That drop-in stays until
//! the next boot: taking it away would make networkd configure the uplink
//! anew, and without it that takes the addresses away first. Where the uplink's
//! file is that of other devices, too, they would be configured anew with it:
//! there the uplink gets a file of its own instead.
#![forbid(unsafe_code)]

mod sight;

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::net::if_::if_nametoindex;
use serde_json::Value;

use crate::apply::clock;
use crate::model::IfName;
use crate::model::address::FOREVER;
use crate::model::route::protocol;
use crate::owners::bus::{self, BusError};
use crate::owners::networkd::{self, NAME, Told};
use crate::owners::process::printable;
use crate::owners::{file, network_file};
use crate::plan::hold::NetworkdHold;
use crate::plan::{Plan, Record};

use super::{Handover, HandoverError, written};

const DIRECTORY: &str = "/run/systemd/network";
/// The drop-in that has it keep what it finds on the uplink.
const KEEP: &str = "zz-vmbr-keep.conf";
const KEEP_TEXT: &str = "# vmbr has given the NIC back. Without this networkd would take its addresses away\n\
    # whenever this file goes; the next boot does without it.\n[Network]\nKeepConfiguration=yes\n";
/// The beginning of a file of the uplink's own that has it keep the same.
const OWN_TEXT: &str = "# vmbr has given the NIC back, which shares its file with others. Without this networkd would\n\
    # take its addresses away; the next boot does without it.\n";
const PATH: &str = "/org/freedesktop/network1";
const MANAGER: &str = "org.freedesktop.network1.Manager";
/// How long it may take to answer.
const ANSWER: Duration = Duration::from_secs(3);
/// How long it may take to do what it was told.
const TAKEN: Duration = Duration::from_secs(3);
/// How long the server is waited for.
const LEASE: Duration = Duration::from_secs(5);
/// How long it may take to configure routes by gateways that it sees.
const SEEN: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(20);

impl NetworkdHold {
    fn path(&self, device: &IfName) -> PathBuf {
        Path::new(DIRECTORY).join(format!("{}{device}.network", self.prefix))
    }

    fn keep(&self) -> PathBuf {
        let name = Path::new(&self.file).file_name().unwrap_or_default();
        let directory = format!("{}.d", name.to_string_lossy());
        Path::new(DIRECTORY).join(directory).join(KEEP)
    }

    /// What the uplink's own file is to say on the way back, out of networkd's
    /// sight.
    fn kept(&self, uplink: &IfName) -> PathBuf {
        self.path(uplink).with_extension("kept")
    }

    /// The bridge's file.
    fn for_bridge(&self, record: &Record) -> String {
        let bridge = &record.bridge.name;
        let sections = network_file::renamed(&self.sections, &record.uplink.name, bridge);
        format!(
            "# vmbr: {bridge} carries the network of {}, which {} configures.\n[Match]\nName={bridge}\n{sections}",
            record.uplink.name, self.file
        )
    }

    /// Shows networkd what it has forgotten, until it has what it needs.
    fn show_all(&self, uplink: &IfName) {
        let copies = sight::show(uplink);
        if !copies.is_empty() {
            until(SEEN, || admin_state(uplink).as_deref() == Some("configured"));
            sight::perform(&copies.into_iter());
        }
    }

    /// Waits for the server of the lease; the answer is what to warn of.
    fn await_lease(&self, record: &Record, device: &IfName) -> Option<String> {
        let had = self.leased?;
        let given = || networkd::told(Told::Lease, index(device)?)?.value("ADDRESS");
        if until(LEASE, || given().is_some()) {
            let given = given().filter(|given| *given != had.to_string())?;
            return Some(format!(
                "the DHCP server has given {device} the address {} instead of {had}",
                printable(&given)
            ));
        }
        let since = record
            .read_at
            .map_or(0, |then| clock::since_boot().as_secs().saturating_sub(then));
        let mut leased = record.before.addresses.iter().filter(|a| a.local == had);
        let end = leased.find(|a| a.valid != FOREVER).map_or_else(
            || "its lease ends".to_owned(),
            |a| format!("its lease ends in {} s", u64::from(a.valid).saturating_sub(since)),
        );
        Some(format!(
            "the DHCP server does not answer: systemd-networkd goes on asking it for {had} on {device}; {end}"
        ))
    }
}

impl Handover for NetworkdHold {
    fn name(&self) -> &'static str {
        "systemd-networkd"
    }

    fn commands(&self, record: &Record) -> Vec<String> {
        let print = |text: &str, device: &IfName| written(text, &self.path(device));
        let reload = || "networkctl reload".to_owned();
        vec![
            print(&self.for_bridge(record), &record.bridge.name),
            reload(),
            print(&unmanaged(&record.uplink.name), &record.uplink.name),
            reload(),
        ]
    }

    fn commands_back(&self, record: &Record) -> Vec<String> {
        let (bridge, uplink) = (self.path(&record.bridge.name), self.path(&record.uplink.name));
        vec![
            format!("rm -f '{}' '{}'", bridge.display(), uplink.display()),
            "networkctl reload".into(),
        ]
    }

    /// Another file may be about every device: it would get hold of the bridge
    /// as soon as there is one. Where none is, networkd is not told to read its
    /// files: one that was changed and not read yet would be obeyed before the
    /// network has left the uplink.
    fn prepare(&self, record: &Record) -> Result<(), HandoverError> {
        let bridge = &record.bridge.name;
        if !network_file::is_plain(bridge) {
            return Err(error(
                format!("the name {bridge} is a pattern in its files"),
                "choose another name: --bridge",
            ));
        }
        let taken = |path: &PathBuf| {
            let name = file::read(path, None).and_then(|kept| kept.value("Name"));
            name.is_some_and(|name| name == bridge.as_str())
        };
        if let Some(path) = network_file::all(".netdev").values().find(|path| taken(path)) {
            return Err(error(
                format!("{} says how {bridge} is made", path.display()),
                "choose another name: --bridge; or have networkd make that bridge: 'networkctl reload'",
            ));
        }
        if let Some(own) = &self.own {
            write_file(&self.kept(&record.uplink.name), own)?;
        }
        let grabs = |path: &PathBuf| {
            let text = fs::read_to_string(path);
            text.is_ok_and(|text| network_file::may_match(&text, bridge))
        };
        if !network_file::all(".network").values().any(grabs) {
            return Ok(());
        }
        write_file(&self.path(bridge), &unmanaged(bridge))?;
        reload()
    }

    fn to_bridge(&self, record: &Record) -> Result<Vec<String>, HandoverError> {
        let (bridge, uplink) = (&record.bridge.name, &record.uplink.name);
        // The whole kept configuration would be dropped where the file of a
        // device changes that it has configured by it.
        write_file(&self.path(bridge), &self.for_bridge(record))?;
        reload()?;
        let takes = || {
            let path = self.path(bridge);
            let by = index(bridge).and_then(|index| networkd::told(Told::Link, index)?.value("NETWORK_FILE"));
            by.is_some_and(|by| Path::new(&by) == path)
        };
        if !until(TAKEN, takes) {
            return Err(error(
                format!(
                    "it does not configure {bridge} by {}, but is '{}' there",
                    self.path(bridge).display(),
                    admin_state(bridge).unwrap_or_else(|| "unknown".into())
                ),
                "see 'networkctl status' and 'journalctl -u systemd-networkd', then try again",
            ));
        }
        let warnings = self.await_lease(record, bridge).into_iter().collect();
        write_file(&self.path(uplink), &unmanaged(uplink))?;
        sight::mute(uplink);
        let told = reload();
        let let_go = told.is_ok() && until(TAKEN, || admin_state(uplink).as_deref() == Some("unmanaged"));
        sight::unmute(uplink);
        told?;
        if !let_go {
            return Err(error(
                format!(
                    "it does not let go of {uplink}, but is '{}' there",
                    admin_state(uplink).unwrap_or_else(|| "unknown".into())
                ),
                "see 'networkctl status' and 'journalctl -u systemd-networkd', then try again",
            ));
        }
        // Not before: whoever leads a change back that was cut short there has
        // it configure the uplink anew.
        remove(&self.keep())?;
        Ok(warnings)
    }

    /// What changes on the uplink after it has left the bridge is not forgotten.
    fn arrange_back(&self, plan: &mut Plan) {
        plan.settle_before_release();
    }

    fn to_uplink(&self, record: &Record) -> Result<Vec<String>, HandoverError> {
        let kept = self.kept(&record.uplink.name);
        let own = file::read(&kept, None).map(|kept| kept.text());
        let warnings = self.give_back(record, own.or_else(|| self.own.clone()))?;
        remove(&kept)?;
        Ok(warnings)
    }
}

impl NetworkdHold {
    /// Gives it the uplink; `own` is what a file of the uplink's own says.
    fn give_back(&self, record: &Record, own: Option<String>) -> Result<Vec<String>, HandoverError> {
        let (bridge, uplink) = (&record.bridge.name, &record.uplink.name);
        sight::unmute(uplink);
        let _ = fs::remove_file(unfinished(&self.keep()));
        let is_one_of = |states: &[&str]| admin_state(uplink).is_some_and(|is| states.contains(&is.as_str()));
        // It may be learning the device anew just now.
        until(TAKEN, || !is_one_of(&["pending", "initialized", "linger"]));
        let has = || is_one_of(&["configured", "configuring"]);
        let let_go = !has();
        let told_of = remove(&self.path(bridge))?;
        let path = self.path(uplink);
        let keeps = let_go && knows_what_is_there(uplink);
        let told_of = match own {
            Some(own) if keeps => {
                write_file(&path, &format!("{OWN_TEXT}{own}"))?;
                true
            }
            // It is the one by which it has the uplink, or is about to.
            _ if fs::read_to_string(&path).is_ok_and(|text| text.starts_with(OWN_TEXT)) => let_go || told_of,
            _ => {
                if keeps {
                    let keep = self.keep();
                    if let Some(directory) = keep.parent() {
                        make_directory(directory)?;
                    }
                    write_file(&keep, KEEP_TEXT)?;
                }
                remove(&path)? || told_of
            }
        };
        // Files that others have changed are read with ours: not without need.
        if !let_go && !told_of {
            self.show_all(uplink);
            return Ok(Vec::new());
        }
        match tell_to_reload() {
            Ok(true) => {}
            Ok(false) => {
                return Ok(vec![format!(
                    "systemd-networkd does not run: {uplink} is its own again when it is started"
                )]);
            }
            Err(error) => return Err(untold(&error)),
        }
        if !until(TAKEN, has) {
            return Err(error(
                format!(
                    "it does not take {uplink} back, but is '{}' there",
                    admin_state(uplink).unwrap_or_else(|| "unknown".into())
                ),
                "see 'networkctl status' and 'journalctl -u systemd-networkd'",
            ));
        }
        self.show_all(uplink);
        Ok(self.await_lease(record, uplink).into_iter().collect())
    }
}

fn error(message: String, remedy: &str) -> HandoverError {
    HandoverError {
        manager: "systemd-networkd",
        message,
        remedy: remedy.into(),
    }
}

/// The file by which networkd leaves a device alone.
fn unmanaged(device: &IfName) -> String {
    format!("# vmbr: {device} is not networkd's now.\n[Match]\nName={device}\n[Link]\nUnmanaged=yes\n")
}

fn index(device: &IfName) -> Option<u32> {
    if_nametoindex(device.as_str()).ok()
}

fn admin_state(device: &IfName) -> Option<String> {
    networkd::told(Told::Link, index(device)?)?.value("ADMIN_STATE")
}

fn until(patience: Duration, done: impl Fn() -> bool) -> bool {
    let end = Instant::now() + patience;
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        sleep(TICK);
    }
}

/// Writes a file in one step, unless it says that already.
fn write_file(path: &Path, text: &str) -> Result<(), HandoverError> {
    let fail = |what: io::Error| {
        error(
            format!("cannot write {}: {what}", path.display()),
            "see that /run can be written, then try again",
        )
    };
    if fs::read_to_string(path).is_ok_and(|there| there == text) {
        return Ok(());
    }
    let directory = path.parent().unwrap_or(Path::new(DIRECTORY));
    make_directory(directory)?;
    let new = unfinished(path);
    let write = || {
        let _ = fs::remove_file(&new);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(text.as_bytes())?;
        // It may say what only networkd and root may read.
        std::os::unix::fs::fchown(&file, None, networkd::group())?;
        file.set_permissions(fs::Permissions::from_mode(0o640))?;
        fs::rename(&new, path)
    };
    write().map_err(fail)
}

/// The name of a file that is not whole yet. networkd reads none that begins
/// so.
fn unfinished(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.new"))
}

fn make_directory(path: &Path) -> Result<(), HandoverError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(path);
    made.map_err(|what| {
        error(
            format!("cannot make {}: {what}", path.display()),
            "see that /run can be written, then try again",
        )
    })
}

/// Removes a file, and its directory where nothing else is in it; false where
/// there was none.
fn remove(path: &Path) -> Result<bool, HandoverError> {
    // What a vmbr has left that was killed while it wrote.
    let _ = fs::remove_file(unfinished(path));
    if !fs::exists(path).unwrap_or(true) {
        return Ok(false);
    }
    fs::remove_file(path).map_err(|what| {
        error(
            format!("cannot remove {}: {what}", path.display()),
            "remove it by hand, then: networkctl reload",
        )
    })?;
    if let Some(directory) = path.parent().filter(|parent| *parent != Path::new(DIRECTORY)) {
        let _ = fs::remove_dir(directory);
    }
    Ok(true)
}

/// Has networkd read its files; false where none runs.
fn tell_to_reload() -> Result<bool, BusError> {
    bus::ask(Instant::now() + ANSWER, async |connection| {
        if networkd::process(connection).await?.is_none() {
            return Ok(false);
        }
        let manager = bus::proxy(connection, NAME, PATH, MANAGER).await?;
        manager.call::<_, _, ()>("Reload", &()).await?;
        Ok(true)
    })
}

fn reload() -> Result<(), HandoverError> {
    match tell_to_reload() {
        Ok(true) => Ok(()),
        Ok(false) => Err(error(
            "it does not run any more, so it cannot be given anything".into(),
            "start it ('systemctl start systemd-networkd'), then try again",
        )),
        Err(failure) => Err(untold(&failure)),
    }
}

fn untold(failure: &BusError) -> HandoverError {
    error(
        format!(
            "it cannot be told to read its files: {}",
            networkd::silence(failure)
        ),
        "see that 'networkctl reload' works, then try again",
    )
}

/// Whether networkd knows of anything on a device that it did not configure
/// itself, and would remove. Where it does not say, it does.
fn knows_what_is_there(device: &IfName) -> bool {
    let Some(index) = index(device).and_then(|index| i32::try_from(index).ok()) else {
        return true;
    };
    let described = bus::ask(Instant::now() + ANSWER, async |connection| {
        if networkd::process(connection).await?.is_none() {
            return Ok(String::new());
        }
        let manager = bus::proxy(connection, NAME, PATH, MANAGER).await?;
        manager.call::<_, _, String>("DescribeLink", &index).await
    });
    let Some(said) = described
        .ok()
        .and_then(|text| serde_json::from_str::<Value>(&text).ok())
    else {
        return true;
    };
    let list = |key: &str| said[key].as_array().cloned().unwrap_or_default();
    let foreign = |what: &Value| what["ConfigSource"] == "foreign";
    // Link-local IPv6 addresses (fe80::/64) and what the kernel has made are
    // left alone.
    let address = |a: &Value| !(a["Address"][0] == 0xfe && a["Address"][1] == 0x80);
    let route = |r: &Value| r["Protocol"].as_u64() != Some(protocol::KERNEL.into());
    list("Addresses").iter().any(|a| foreign(a) && address(a))
        || list("Routes").iter().any(|r| foreign(r) && route(r))
}
