//! NetworkManager is given the bridge.
//!
//! Its own way to a bridge, activating a profile, takes the addresses away
//! first: `nm_device_cleanup()` of its nm-device.c, 97 ms without IPv4 and two
//! seconds without IPv6. What is done here was found in the source of 1.42,
//! stands there up to 1.59, and loses no packet:
//!
//! 1. The bridge that carries the network is "connected (externally)" to it: a
//!    profile that it has generated mirrors what it finds.
//! 2. `Managed` set to true makes that device an *assumed* one, which keeps
//!    what it has (`set_property()`). Without this step the next one switches
//!    IPv6 off and on (`_dev_addrgenmode6_set()`).
//! 3. `Reapply` with the profile of the NIC, and with what NetworkManager
//!    derives from a device's name and kind made explicit ([`clone`]): client
//!    identifier, DUID, IAID, metrics. It asks for the lease that the NIC has,
//!    gets it, and takes the addresses for its own.
//!    `PRESERVE_EXTERNAL_IP` has it leave what it does not know.
//! 4. `Update2` makes the generated profile one that stays, under /run: a
//!    NetworkManager that is started anew assumes the bridge by it. It would
//!    put the profile in force once more, and prune (step 3's flag cannot be
//!    given): `auth-retries`, which means nothing without 802.1X, cannot be put
//!    in force (`can_reapply_change()`), so it says no to itself and leaves
//!    all as it is.
//! 5. The NIC: `Reapply` without any IP has NetworkManager forget what it had
//!    configured there, now that it is not there. It would else remove it when
//!    it comes back (`nm_l3cfg_commit()` and its zombies). Then it lets go of
//!    the NIC until it is told otherwise, over a restart of its own, too.
//!    Of a NIC whose link-local address is no EUI-64 one it lets go before the
//!    network moves: it takes the end of such an address for a conflict, and
//!    puts the next one on the port (`nm-l3-ipv6ll.c`).
//!
//! NetworkManager asks for no lease on a bridge that has no port which it
//! knows (`have_any_ready_slaves()`), and of the uplink it must not know: a
//! port that is its own is taken from the bridge when its state changes, and
//! the profile would be put on it when the cable comes in again. So a TAP
//! without a carrier that belongs to nobody stands beside it.
//!
//! Its checkpoints are not used: what one does at its end is to activate the
//! NIC's profile, on a port. The watchdog leads back within a second.
//!
//! The way back is in [`back`].

mod back;
mod clone;
mod keeper;

use std::time::{Duration, Instant};

use nix::unistd::Uid;
use tokio::time::sleep;
use zbus::Connection;

use crate::model::IfName;
use crate::netlink::dump;
use crate::netlink::ports::{self, TapOptions};
use crate::netlink::sysctl;
use crate::owners::bus::{self, BusError};
use crate::owners::network_manager::client::{ACTIVATED, Client, DISCONNECTED, Device, Settings, UNMANAGED};
use crate::owners::network_manager::text;
use crate::plan::Record;
use crate::plan::hold::NetworkManager;

use super::{Handover, HandoverError};

/// How long all of one way may take.
const PATIENCE: Duration = Duration::from_secs(25);
/// How long it may take to see a device that was made.
const SIGHT: Duration = Duration::from_secs(5);
/// How long a DHCP server is waited for.
const ANSWER: Duration = Duration::from_secs(4);
/// Time between two looks.
const TICK: Duration = Duration::from_millis(10);
/// How often it is told to take a device that it sees and leaves alone.
const NUDGE: Duration = Duration::from_millis(500);

impl Handover for NetworkManager {
    fn name(&self) -> &'static str {
        "NetworkManager"
    }

    fn commands(&self, record: &Record) -> Vec<String> {
        let (bridge, uplink) = (&record.bridge.name, &record.uplink.name);
        let port = self.port(bridge).map(|port| {
            format!("ip tuntap add mode tap name {port} user root; ip link set dev {port} master {bridge} up")
        });
        let mut commands: Vec<String> = port.into_iter().collect();
        commands.push(format!("nmcli device set {bridge} managed yes"));
        commands.push(format!(
            "nmcli device modify {bridge} {}",
            clone::words(self).join(" ")
        ));
        commands.push(format!("nmcli device set {uplink} managed no"));
        commands
    }

    fn commands_back(&self, record: &Record) -> Vec<String> {
        let uplink = &record.uplink.name;
        vec![
            format!("nmcli device set {uplink} managed yes"),
            format!("nmcli connection up uuid {} ifname {uplink}", self.profile),
            format!(
                "nmcli connection delete id '{}'",
                Self::bridge_profile(&record.bridge.name)
            ),
        ]
    }

    fn prepare(&self, record: &Record) -> Result<(), HandoverError> {
        if !self.first {
            return Ok(());
        }
        converse(async |client| let_go(&find(client, &record.uplink.name).await?).await)
    }

    fn to_bridge(&self, record: &Record) -> Result<Vec<String>, HandoverError> {
        converse(async |client| take_bridge(self, client, record).await)
    }

    fn to_uplink(&self, record: &Record) -> Result<Vec<String>, HandoverError> {
        if let Some(port) = self.port(&record.bridge.name) {
            // It is gone already, or the bridge's end has freed it.
            if !is_anothers(&port, &record.bridge.name) {
                let _ = ports::remove(&[port]);
            }
        }
        converse(async |client| back::take_uplink(self, client, record).await)
    }
}

/// What can go wrong in a conversation.
enum Trouble {
    /// D-Bus, or NetworkManager on it, said no.
    Said(zbus::Error),
    /// Something else, in a sentence.
    Other(String),
}

impl From<zbus::Error> for Trouble {
    fn from(error: zbus::Error) -> Self {
        Self::Said(error)
    }
}

impl From<String> for Trouble {
    fn from(sentence: String) -> Self {
        Self::Other(sentence)
    }
}

/// Talks with NetworkManager, not for ever.
fn converse<T>(talk: impl AsyncFnOnce(&Client) -> Result<T, Trouble>) -> Result<T, HandoverError> {
    let whole = async |connection: &Connection| match Client::find(connection).await? {
        Some(client) => Ok(talk(&client).await),
        None => Ok(Err("it does not run".to_owned().into())),
    };
    let talked = bus::ask(Instant::now() + PATIENCE, whole);
    let message = match talked {
        Ok(Ok(done)) => return Ok(done),
        Ok(Err(Trouble::Said(error))) | Err(BusError::Failed(error)) => format!("it answers '{error}'"),
        Ok(Err(Trouble::Other(sentence))) => sentence,
        Err(BusError::Silent) => "it does not answer on the system's D-Bus".into(),
        Err(BusError::Absent) => "there is no D-Bus to ask it by".into(),
    };
    Err(HandoverError {
        manager: "NetworkManager",
        message,
        remedy: "see 'systemctl status NetworkManager' and its log".into(),
    })
}

/// The steps of the module's doc.
async fn take_bridge(
    held: &NetworkManager,
    client: &Client,
    record: &Record,
) -> Result<Vec<String>, Trouble> {
    let (bridge, uplink) = (&record.bridge.name, &record.uplink.name);
    let nic = find(client, uplink).await?;
    let of_nic = of_nic(held, client, &nic, uplink).await?;
    if let Some(port) = held.port(bridge) {
        add_port(&port, bridge)?;
        mirrored(client, &port).await?;
    }
    let device = mirrored(client, bridge).await?;
    if held.first {
        forget(&nic).await?;
    }
    device.set_managed(true).await?;
    let settings = clone::settings(held, &of_nic, &device.applied().await?, record);
    let mut named = clone::settings(held, &of_nic, &settings, record);
    clone::add_names(held, &mut named);
    // It has forgotten the NIC's servers of names with the NIC. They stay in
    // force beside the lease's, until it is started anew.
    device
        .reapply(if held.first { &named } else { &settings })
        .await?;
    let mut warnings = Vec::new();
    if text(&settings, "ipv4", "method") == Some("auto") && !leased(&device).await? {
        warnings.push(late(bridge));
        // Once it has put in force what a router said it would take that away
        // for a moment; but then it knows servers of names.
        let knows = !device.names(true).await?.0.is_empty() || !device.lease(true).await?.is_empty();
        if !held.first && !knows {
            device.reapply(&named).await?;
        }
    }
    let mirror = device.active().await?.ok_or_else(|| lost(bridge))?;
    client
        .update(&mirror.profile, &clone::lasting(settings, bridge)?)
        .await?;
    let now = device.active().await?.ok_or_else(|| lost(bridge))?;
    if now.external {
        return Err(format!("it does not take {bridge} for its own").into());
    }
    if !held.first {
        release(&nic, of_nic).await?;
    }
    Ok(warnings)
}

/// The settings that are in force on the NIC, or would be.
async fn of_nic(
    held: &NetworkManager,
    client: &Client,
    nic: &Device<'_>,
    uplink: &IfName,
) -> Result<Settings, Trouble> {
    if held.first {
        let profile = client.profile(&held.profile).await?;
        let profile = profile.ok_or_else(|| format!("its profile '{}' is gone", held.name))?;
        return Ok(client.settings(&profile).await?);
    }
    let active = nic.active().await?.filter(|active| active.uuid == held.profile);
    if active.is_none() {
        return Err(format!("its profile '{}' is not active on {uplink} any more", held.name).into());
    }
    Ok(nic.applied().await?)
}

/// Has it forget what it had configured on the NIC, and let go.
async fn release(nic: &Device<'_>, applied: Settings) -> Result<(), Trouble> {
    nic.reapply(&clone::without_ip(applied)).await?;
    // What is forgotten is forgotten in its main loop's next turn: its answer
    // to a question that comes after is from a later one.
    nic.state().await?;
    sleep(TICK).await;
    let_go(nic).await
}

/// Has it forget what it had configured on a NIC that it has let go of
/// already: what is not there when it takes the NIC is forgotten.
async fn forget(nic: &Device<'_>) -> Result<(), Trouble> {
    nic.set_autoconnect(false).await?;
    nic.set_managed(true).await?;
    until(SIGHT, async || Ok(nic.state().await? >= DISCONNECTED)).await?;
    sleep(TICK).await;
    let_go(nic).await?;
    Ok(nic.set_autoconnect(true).await?)
}

async fn let_go(nic: &Device<'_>) -> Result<(), Trouble> {
    nic.set_managed(false).await?;
    until(SIGHT, async || Ok(nic.state().await? == UNMANAGED)).await?;
    Ok(())
}

fn late(bridge: &IfName) -> String {
    format!(
        "the DHCP server has not answered NetworkManager on {bridge} yet; it goes on asking, and until then the addresses last as long as they would have"
    )
}

/// A device that it must know of.
async fn find<'a>(client: &'a Client, name: &IfName) -> Result<Device<'a>, Trouble> {
    let device = client.device(name.as_str()).await?;
    device.ok_or_else(|| format!("it does not know {name}").into())
}

/// Waits until it mirrors a device that was made; one that it is configured
/// to leave alone it is told to take.
async fn mirrored<'a>(client: &'a Client, name: &IfName) -> Result<Device<'a>, Trouble> {
    let began = Instant::now();
    let mut nudged = began;
    while began.elapsed() < SIGHT {
        if let Some(device) = client.device(name.as_str()).await? {
            let state = device.state().await?;
            if state == ACTIVATED && device.active().await?.is_some_and(|active| active.external) {
                return Ok(device);
            }
            if state == UNMANAGED && nudged.elapsed() > NUDGE {
                device.set_managed(true).await?;
                nudged = Instant::now();
            }
        }
        sleep(TICK).await;
    }
    Err(format!("it does not see {name} as one that others have configured").into())
}

/// Waits for a DHCPv4 lease.
async fn leased(device: &Device<'_>) -> Result<bool, Trouble> {
    until(ANSWER, async || {
        Ok(device.lease(false).await?.contains_key("ip_address"))
    })
    .await
}

/// Waits until something is so; the answer is whether it is.
async fn until(
    patience: Duration,
    mut so: impl AsyncFnMut() -> Result<bool, Trouble>,
) -> Result<bool, Trouble> {
    let began = Instant::now();
    loop {
        if so().await? {
            return Ok(true);
        }
        if began.elapsed() > patience {
            return Ok(false);
        }
        sleep(TICK).await;
    }
}

/// Puts the TAP beside the uplink. It never has a carrier, so that no packet
/// goes there.
fn add_port(port: &IfName, bridge: &IfName) -> Result<(), Trouble> {
    ports::add_taps(
        std::slice::from_ref(port),
        bridge,
        &TapOptions::of(Uid::from_raw(0)),
    )
    .map_err(|error| error.to_string())?;
    // It would get an address of its own; where there is no IPv6 it has none.
    let _ = sysctl::write(port.as_str(), "ipv6/conf/disable_ipv6", "1");
    Ok(())
}

/// Whether a device has the port's name that [`add_port`] has not made: no TAP
/// of root's, or the port of another bridge.
fn is_anothers(port: &IfName, bridge: &IfName) -> bool {
    let live = dump::network().ok();
    let link = live.as_ref().and_then(|live| live.link(port));
    link.is_some_and(|link| {
        let made = link
            .tun
            .as_ref()
            .is_some_and(|tun| tun.tap && tun.owner == Some(0));
        !made || link.master.as_ref().is_some_and(|master| master != bridge)
    })
}

fn lost(bridge: &IfName) -> Trouble {
    Trouble::Other(format!("nothing is active on {bridge} any more"))
}
