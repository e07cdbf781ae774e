//! NetworkManager's objects on the system's D-Bus
//! (<https://networkmanager.dev/docs/api/latest/spec.html>).

use std::collections::HashMap;
use std::net::IpAddr;

use futures_util::future::try_join4;
use zbus::zvariant::{OwnedObjectPath, OwnedValue, Value};
use zbus::{Connection, Proxy};

use crate::owners::{bus, process};

const NAME: &str = "org.freedesktop.NetworkManager";
const PATH: &str = "/org/freedesktop/NetworkManager";
const SETTINGS_PATH: &str = "/org/freedesktop/NetworkManager/Settings";
const SETTINGS: &str = "org.freedesktop.NetworkManager.Settings";
const PROFILE: &str = "org.freedesktop.NetworkManager.Settings.Connection";
const DEVICE: &str = "org.freedesktop.NetworkManager.Device";
const ACTIVE: &str = "org.freedesktop.NetworkManager.Connection.Active";
/// No object.
const NONE: &str = "/";

/// `NMDeviceState`: NetworkManager leaves the device alone.
pub const UNMANAGED: u32 = 10;
/// `NMDeviceState`: it could be used, but for a cable, say.
pub const DISCONNECTED: u32 = 30;
/// `NMDeviceState`: a profile is active on it.
pub const ACTIVATED: u32 = 100;
/// `NM_ACTIVATION_STATE_FLAG_EXTERNAL`: the profile only mirrors what others
/// have configured.
const EXTERNAL: u32 = 0x80;
/// `NM_DEVICE_REAPPLY_FLAGS_PRESERVE_EXTERNAL_IP`, since 1.42.
const PRESERVE_EXTERNAL_IP: u32 = 1;
/// `NM_SETTINGS_UPDATE2_FLAG_IN_MEMORY`: the profile is under /run.
const IN_MEMORY: u32 = 2;

/// A profile's settings, or what is in force of them.
pub type Settings = HashMap<String, HashMap<String, OwnedValue>>;

/// The daemon.
pub struct Client {
    connection: Connection,
    /// Its process.
    pub process: u32,
}

impl Client {
    /// The one of this network namespace; one of another can be on the same
    /// bus. Starts nobody.
    pub async fn find(connection: &Connection) -> zbus::Result<Option<Self>> {
        let owner = bus::owner(connection, NAME).await?;
        Ok(owner.filter(|id| process::is_here(*id)).map(|process| Self {
            connection: connection.clone(),
            process,
        }))
    }

    /// Its version, `1.42.4`.
    pub async fn version(&self) -> zbus::Result<String> {
        let manager = self.proxy(PATH, NAME).await?;
        manager.get_property("Version").await
    }

    /// What it knows of a device, if anything.
    pub async fn device(&self, name: &str) -> zbus::Result<Option<Device<'_>>> {
        let manager = self.proxy(PATH, NAME).await?;
        let found: zbus::Result<OwnedObjectPath> = manager.call("GetDeviceByIpIface", &name).await;
        match found {
            Err(zbus::Error::MethodError(name, ..)) if name.ends_with(".UnknownDevice") => Ok(None),
            found => Ok(Some(Device {
                client: self,
                path: found?,
            })),
        }
    }

    /// The profile of a UUID, if there is one.
    pub async fn profile(&self, uuid: &str) -> zbus::Result<Option<OwnedObjectPath>> {
        let settings = self.proxy(SETTINGS_PATH, SETTINGS).await?;
        match settings.call("GetConnectionByUuid", &uuid).await {
            Err(zbus::Error::MethodError(name, ..)) if name.ends_with(".InvalidConnection") => Ok(None),
            found => found.map(Some),
        }
    }

    /// Every profile.
    pub async fn profiles(&self) -> zbus::Result<Vec<OwnedObjectPath>> {
        let settings = self.proxy(SETTINGS_PATH, SETTINGS).await?;
        settings.call("ListConnections", &()).await
    }

    /// A profile's settings, without its secrets.
    pub async fn settings(&self, profile: &OwnedObjectPath) -> zbus::Result<Settings> {
        let profile = self.proxy(profile.as_str(), PROFILE).await?;
        profile.call("GetSettings", &()).await
    }

    /// Whether a profile is nowhere but under /run.
    pub async fn is_in_memory(&self, profile: &OwnedObjectPath) -> zbus::Result<bool> {
        let profile = self.proxy(profile.as_str(), PROFILE).await?;
        profile.get_property("Unsaved").await
    }

    /// Gives a profile other settings, under /run alone.
    pub async fn update(&self, profile: &OwnedObjectPath, settings: &Settings) -> zbus::Result<()> {
        let profile = self.proxy(profile.as_str(), PROFILE).await?;
        let more: HashMap<&str, Value<'_>> = HashMap::new();
        let _: HashMap<String, OwnedValue> = profile.call("Update2", &(settings, IN_MEMORY, more)).await?;
        Ok(())
    }

    /// Removes a profile.
    pub async fn delete(&self, profile: &OwnedObjectPath) -> zbus::Result<()> {
        self.proxy(profile.as_str(), PROFILE)
            .await?
            .call("Delete", &())
            .await
    }

    /// Activates a profile on a device.
    pub async fn activate(&self, profile: &OwnedObjectPath, device: &Device<'_>) -> zbus::Result<()> {
        let manager = self.proxy(PATH, NAME).await?;
        let none = OwnedObjectPath::try_from(NONE)?;
        let _: OwnedObjectPath = manager
            .call("ActivateConnection", &(profile, &device.path, none))
            .await?;
        Ok(())
    }

    async fn proxy<'a>(&'a self, path: &'a str, interface: &'a str) -> zbus::Result<Proxy<'a>> {
        bus::proxy(&self.connection, NAME, path, interface).await
    }
}

/// A device, as NetworkManager sees it.
pub struct Device<'a> {
    client: &'a Client,
    path: OwnedObjectPath,
}

/// What is active on a device.
pub struct Active {
    /// The profile's UUID.
    pub uuid: String,
    /// The profile's name.
    pub name: String,
    /// The profile.
    pub profile: OwnedObjectPath,
    /// Whether the profile only mirrors what others have configured.
    pub external: bool,
}

impl Device<'_> {
    /// Its `NMDeviceState`.
    pub async fn state(&self) -> zbus::Result<u32> {
        self.property("State").await
    }

    /// Whether NetworkManager has its hand on it.
    pub async fn is_managed(&self) -> zbus::Result<bool> {
        self.property("Managed").await
    }

    /// Has NetworkManager let go of it, which leaves all that is configured
    /// there, or take it again.
    pub async fn set_managed(&self, managed: bool) -> zbus::Result<()> {
        self.set("Managed", managed).await
    }

    /// Whether profiles may become active there by themselves.
    pub async fn set_autoconnect(&self, may: bool) -> zbus::Result<()> {
        self.set("Autoconnect", may).await
    }

    /// What is active there.
    pub async fn active(&self) -> zbus::Result<Option<Active>> {
        let path: OwnedObjectPath = self.property("ActiveConnection").await?;
        if path.as_str() == NONE {
            return Ok(None);
        }
        let active = self.client.proxy(path.as_str(), ACTIVE).await?;
        let (uuid, name, profile, flags) = try_join4(
            active.get_property("Uuid"),
            active.get_property("Id"),
            active.get_property("Connection"),
            active.get_property::<u32>("StateFlags"),
        )
        .await?;
        Ok(Some(Active {
            uuid,
            name,
            profile,
            external: flags & EXTERNAL != 0,
        }))
    }

    /// The settings that are in force there.
    pub async fn applied(&self) -> zbus::Result<Settings> {
        let (settings, _): (Settings, u64) =
            self.device().await?.call("GetAppliedConnection", &0_u32).await?;
        Ok(settings)
    }

    /// Puts settings in force there; addresses and routes that NetworkManager
    /// has not made stay.
    pub async fn reapply(&self, settings: &Settings) -> zbus::Result<()> {
        let arguments = (settings, 0_u64, PRESERVE_EXTERNAL_IP);
        self.device().await?.call("Reapply", &arguments).await
    }

    /// The options of the lease of a family; empty where there is none.
    pub async fn lease(&self, v6: bool) -> zbus::Result<HashMap<String, OwnedValue>> {
        let family = if v6 { 6 } else { 4 };
        let property = format!("Dhcp{family}Config");
        let interface = format!("{NAME}.DHCP{family}Config");
        let lease: Option<HashMap<_, _>> = self.of_object(&property, &interface, "Options").await?;
        Ok(lease.unwrap_or_default())
    }

    /// The routes that it has made, each a map.
    pub async fn routes(&self, v6: bool) -> zbus::Result<Vec<HashMap<String, OwnedValue>>> {
        Ok(self.ip(v6, "RouteData").await?.unwrap_or_default())
    }

    /// The servers of names that are known there, and the domains to search.
    pub async fn names(&self, v6: bool) -> zbus::Result<(Vec<IpAddr>, Vec<String>)> {
        let servers: Vec<IpAddr> = if v6 {
            let all: Option<Vec<Vec<u8>>> = self.ip(v6, "Nameservers").await?;
            let all = all.unwrap_or_default().into_iter();
            all.filter_map(|bytes| <[u8; 16]>::try_from(bytes).ok())
                .map(IpAddr::from)
                .collect()
        } else {
            let all: Option<Vec<HashMap<String, OwnedValue>>> = self.ip(v6, "NameserverData").await?;
            let address = |server: HashMap<String, OwnedValue>| {
                <&str>::try_from(server.get("address")?).ok()?.parse().ok()
            };
            all.unwrap_or_default().into_iter().filter_map(address).collect()
        };
        Ok((servers, self.ip(v6, "Searches").await?.unwrap_or_default()))
    }

    async fn ip<T>(&self, v6: bool, property: &str) -> zbus::Result<Option<T>>
    where
        T: TryFrom<OwnedValue>,
        T::Error: Into<zbus::Error>,
    {
        let family = if v6 { 6 } else { 4 };
        let interface = format!("{NAME}.IP{family}Config");
        self.of_object(&format!("Ip{family}Config"), &interface, property)
            .await
    }

    /// A property of the object that a property of the device names.
    async fn of_object<T>(&self, name: &str, interface: &str, property: &str) -> zbus::Result<Option<T>>
    where
        T: TryFrom<OwnedValue>,
        T::Error: Into<zbus::Error>,
    {
        let path: OwnedObjectPath = self.property(name).await?;
        if path.as_str() == NONE {
            return Ok(None);
        }
        let object = self.client.proxy(path.as_str(), interface).await?;
        object.get_property(property).await.map(Some)
    }

    async fn property<T>(&self, name: &str) -> zbus::Result<T>
    where
        T: TryFrom<OwnedValue>,
        T::Error: Into<zbus::Error>,
    {
        self.device().await?.get_property(name).await
    }

    async fn set(&self, name: &str, value: bool) -> zbus::Result<()> {
        let device = self.device().await?;
        device.set_property(name, value).await.map_err(zbus::Error::from)
    }

    async fn device(&self) -> zbus::Result<Proxy<'_>> {
        self.client.proxy(self.path.as_str(), DEVICE).await
    }
}
