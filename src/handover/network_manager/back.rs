//! NetworkManager is given the uplink back.
//!
//! The NIC's profile is activated from the state `DISCONNECTED` with the
//! device assumed (`Managed` set to true): that way it takes no IPv4 address
//! away, and gets the lease that is there. Other profiles are kept from
//! becoming active by themselves until it is ([`Device::set_autoconnect`]).
//!
//! IPv6 it switches off and on, whoever activates a profile
//! (`_dev_addrgenmode6_set()`, from 1.42 up to 1.59), some milliseconds. All
//! that went is put back as soon as IPv6 is on again ([`keeper`]), where it else
//! would wait for duplicate address detection and a router, two seconds and
//! more.
//!
//! [`Device::set_autoconnect`]: crate::owners::network_manager::client::Device::set_autoconnect
//! [`keeper`]: super::keeper

use std::time::Duration;

use tokio::time::sleep;

use crate::owners::network_manager::client::{ACTIVATED, Client, DISCONNECTED, Device};
use crate::owners::network_manager::text;
use crate::plan::Record;
use crate::plan::hold::NetworkManager;

use super::keeper::Keeper;
use super::{SIGHT, TICK, Trouble, clone, find, until};

/// How long a profile may take to be active: a DHCP server answers meanwhile.
const ACTIVATION: Duration = Duration::from_secs(8);
/// How long a router and a DHCPv6 server are waited for.
const SIX: Duration = Duration::from_secs(3);
/// How long it takes to put settings in force.
const SETTLED: Duration = Duration::from_millis(300);
/// How often the activation is begun: it may find, in between, that
/// NetworkManager mirrors what it found.
const TRIES: usize = 3;

/// Takes away what the way to the bridge has left, and has the NIC's profile
/// active.
pub async fn take_uplink(
    held: &NetworkManager,
    client: &Client,
    record: &Record,
) -> Result<Vec<String>, Trouble> {
    let uplink = &record.uplink.name;
    forget(client, record).await?;
    let nic = find(client, uplink).await?;
    if has_its_hand_on(&nic, held, client).await? {
        return Ok(Vec::new());
    }
    let Some(profile) = client.profile(&held.profile).await? else {
        nic.set_managed(true).await?;
        return Ok(vec![format!(
            "the profile '{}' of NetworkManager is gone: see what it does with {uplink}",
            held.name
        )]);
    };
    // It may be managed, with what it was given to let go.
    nic.set_managed(false).await?;
    nic.set_autoconnect(false).await?;
    let keeper = Keeper::start(record);
    let mut begun = Ok(false);
    for _ in 0..TRIES {
        begun = begin(&nic, client, &profile).await;
        if !matches!(begun, Ok(false)) {
            break;
        }
        nic.set_managed(false).await?;
    }
    let active = match begun {
        Ok(true) => until(ACTIVATION, async || Ok(nic.state().await? == ACTIVATED)).await,
        Ok(false) => Ok(false),
        Err(error) => Err(error),
    };
    if matches!(active, Ok(false)) && nic.active().await?.is_some() {
        // After 45 s it would take the address down, whose lease may last for
        // hours still.
        let patient = clone::patient(client.settings(&profile).await?);
        nic.reapply(&patient).await?;
        sleep(SETTLED).await;
    }
    if matches!(active, Ok(true)) && held.duid.is_some() {
        // What is in the way of its addresses it makes anew, once it has all.
        let leased = async || Ok(nic.lease(true).await?.contains_key("ip6_address"));
        until(SIX, leased).await.ok();
    }
    keeper.end();
    // Whatever came of it.
    nic.set_autoconnect(true).await?;
    if active? {
        return Ok(Vec::new());
    }
    Ok(vec![format!(
        "the profile '{}' of NetworkManager is not active on {uplink} yet (a cable, or a DHCP server that does not answer?): see 'nmcli device show {uplink}'",
        held.name
    )])
}

/// Activates the profile where nothing is active; false where NetworkManager
/// began to mirror the device instead, or cannot use it now.
async fn begin(
    nic: &Device<'_>,
    client: &Client,
    profile: &zbus::zvariant::OwnedObjectPath,
) -> Result<bool, Trouble> {
    nic.set_managed(true).await?;
    let ready = until(SIGHT, async || Ok(nic.state().await? >= DISCONNECTED)).await?;
    if !ready || nic.active().await?.is_some() {
        return Ok(false);
    }
    client.activate(profile, nic).await?;
    Ok(true)
}

/// Whether the profile is active on the NIC, and nothing was done to it.
async fn has_its_hand_on(nic: &Device<'_>, held: &NetworkManager, client: &Client) -> Result<bool, Trouble> {
    let active = nic.active().await?;
    let Some(active) = active.filter(|active| active.uuid == held.profile && !active.external) else {
        return Ok(false);
    };
    let (applied, whole) = (nic.applied().await?, client.settings(&active.profile).await?);
    let same = |family: &str| text(&applied, family, "method") == text(&whole, family, "method");
    Ok(same("ipv4") && same("ipv6"))
}

/// Removes the bridge's profile.
async fn forget(client: &Client, record: &Record) -> Result<(), Trouble> {
    let name = NetworkManager::bridge_profile(&record.bridge.name);
    for profile in client.profiles().await? {
        // It may go meanwhile, as the generated ones do with their device.
        let Ok(settings) = client.settings(&profile).await else {
            continue;
        };
        let of_bridge = text(&settings, "connection", "id") == Some(&name)
            && text(&settings, "connection", "type") == Some("bridge");
        if of_bridge && client.is_in_memory(&profile).await? {
            client.delete(&profile).await?;
        }
    }
    sleep(TICK).await;
    Ok(())
}
