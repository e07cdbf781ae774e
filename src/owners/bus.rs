//! The system's D-Bus, asked with an end to the waiting.

use std::time::Instant;

use zbus::fdo::DBusProxy;
use zbus::names::BusName;
use zbus::proxy::{Builder, CacheProperties};
use zbus::{Connection, Proxy};

/// Where it is, whatever the environment says.
const SOCKET: &str = "unix:path=/run/dbus/system_bus_socket";

/// Why there is no answer.
#[derive(Debug)]
pub enum BusError {
    /// There is no bus on this host, or none that lets the caller in.
    Absent,
    /// The bus, or who was asked on it, did not answer in time.
    Silent,
    /// It answered with an error.
    Failed(zbus::Error),
}

/// Has a conversation on the system bus, which ends at `deadline`.
///
/// # Errors
/// There is no bus, it is silent, or what `talk` met with.
pub fn ask<T>(
    deadline: Instant,
    talk: impl AsyncFnOnce(&Connection) -> zbus::Result<T>,
) -> Result<T, BusError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| BusError::Failed(error.into()))?;
    let whole = async {
        let connection = connect().await.map_err(|_| BusError::Absent)?;
        talk(&connection).await.map_err(BusError::Failed)
    };
    let ended = runtime.block_on(async { tokio::time::timeout_at(deadline.into(), whole).await });
    runtime.shutdown_background();
    ended.unwrap_or(Err(BusError::Silent))
}

async fn connect() -> zbus::Result<Connection> {
    zbus::connection::Builder::address(SOCKET)?.build().await
}

/// The process behind a name, where root's has it. Starts nobody, as a call
/// by the name would.
pub async fn owner(connection: &Connection, name: &'static str) -> zbus::Result<Option<u32>> {
    let bus = DBusProxy::new(connection).await?;
    let name = BusName::try_from(name)?;
    if !bus.name_has_owner(name.clone()).await? {
        return Ok(None);
    }
    if bus.get_connection_unix_user(name.clone()).await? != 0 {
        return Ok(None);
    }
    Ok(Some(bus.get_connection_unix_process_id(name).await?))
}

/// An interface of an object.
pub async fn proxy<'a>(
    connection: &Connection,
    destination: &'a str,
    path: &'a str,
    interface: &'a str,
) -> zbus::Result<Proxy<'a>> {
    Builder::new(connection)
        .destination(destination)?
        .path(path)?
        .interface(interface)?
        .cache_properties(CacheProperties::No)
        .build()
        .await
}
