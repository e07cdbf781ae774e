//! The maps of the programs, those that are being loaded and those that stand.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use aya::maps::lpm_trie::{Key as TrieKey, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray};
use macaddr::MacAddr6;

use super::layout::{self, GUEST, Key, Learned, PORT, REASONS, SETTINGS};
use super::routes::Prefixes;
use super::{Addresses, MacNatError};

/// Global data is a map that is named like its section.
const SETTINGS_NAME: &str = ".data.settings";
const GATEWAYS_NAME: &str = ".data.gateways";
/// `gateways` in src/mac_nat/state.h: so many MACs, each in eight bytes.
const GATEWAYS: usize = 8;

/// They, by their names.
pub(super) struct Maps {
    settings: Array<MapData, [u8; SETTINGS]>,
    gateways: Array<MapData, [[u8; 8]; GATEWAYS]>,
    guests: HashMap<MapData, Key, [u8; GUEST]>,
    protected: HashMap<MapData, Key, u32>,
    pins: HashMap<MapData, Key, [u8; 8]>,
    prefixes: LpmTrie<MapData, Key, u32>,
    ports: HashMap<MapData, u32, [u8; PORT]>,
    counters: PerCpuArray<MapData, u64>,
}

impl Maps {
    /// Those that were just made for programs that are not yet attached.
    pub fn of_object(object: &mut aya::Ebpf) -> Result<Self, MacNatError> {
        Self::named(|name| object.take_map(name).ok_or_else(|| missing(name)))
    }

    /// Those of programs that stand.
    pub fn of_ids(ids: &BTreeSet<u32>) -> Result<Self, MacNatError> {
        let mut found = open(ids)?;
        Self::named(|name| found.remove(name).ok_or_else(|| missing(name)))
    }

    /// The settings of programs that stand, some or all.
    pub fn settings_of_ids(ids: &BTreeSet<u32>) -> Result<[u8; SETTINGS], MacNatError> {
        let map = open(ids)?
            .remove(SETTINGS_NAME)
            .ok_or_else(|| missing(SETTINGS_NAME))?;
        let settings: Array<MapData, [u8; SETTINGS]> =
            Array::try_from(map).map_err(|error| failure("opening", "settings", &error))?;
        settings
            .get(&0, 0)
            .map_err(|error| failure("reading", "settings", &error))
    }

    /// Has programs that stand, some or all, do nothing, wherever their devices
    /// are: the uplink may be in another namespace, with the program and beyond
    /// the reach of this one.
    pub fn stop(ids: &BTreeSet<u32>) -> Result<(), MacNatError> {
        for id in ids {
            let Some((_, map)) = open(&BTreeSet::from([*id]))?.remove_entry(SETTINGS_NAME) else {
                continue;
            };
            let mut map: Array<MapData, [u8; SETTINGS]> =
                Array::try_from(map).map_err(|error| failure("opening", "settings", &error))?;
            let now = map
                .get(&0, 0)
                .map_err(|error| failure("reading", "settings", &error))?;
            map.set(0, layout::stopped(now), 0)
                .map_err(|error| failure("writing", "settings", &error))?;
        }
        Ok(())
    }

    fn named(mut take: impl FnMut(&'static str) -> Result<Map, MacNatError>) -> Result<Self, MacNatError> {
        fn typed<T: TryFrom<Map, Error = MapError>>(name: &str, map: Map) -> Result<T, MacNatError> {
            T::try_from(map).map_err(|error| failure("opening", name, &error))
        }
        macro_rules! map {
            ($name:literal) => {
                typed($name, take($name)?)?
            };
        }
        Ok(Self {
            settings: typed(SETTINGS_NAME, take(SETTINGS_NAME)?)?,
            gateways: typed(GATEWAYS_NAME, take(GATEWAYS_NAME)?)?,
            guests: map!("guests"),
            protected: map!("protected"),
            pins: map!("pins"),
            prefixes: map!("prefixes"),
            ports: map!("ports"),
            counters: map!("counters"),
        })
    }

    pub fn settings(&self) -> Result<[u8; SETTINGS], MacNatError> {
        self.settings
            .get(&0, 0)
            .map_err(|error| failure("reading", "settings", &error))
    }

    pub fn set_settings(&mut self, settings: [u8; SETTINGS]) -> Result<(), MacNatError> {
        self.settings
            .set(0, settings, 0)
            .map_err(|error| failure("writing", "settings", &error))
    }

    /// Makes the addresses those that no guest, or only one, may claim, and
    /// forgets what had been learned against it, or of the uplink's MAC that
    /// the settings name. Returns whether anything
    /// was not so already.
    pub fn set_addresses(
        &mut self,
        addresses: &Addresses,
        broadcasts: &BTreeSet<IpAddr>,
    ) -> Result<bool, MacNatError> {
        let (protected, pins) = contents(addresses, broadcasts);
        let changed = !self.have_addresses(addresses, broadcasts)?;
        make_it(&mut self.protected, &protected, "protected")?;
        make_it(&mut self.pins, &pins, "pins")?;
        self.clear_gateways(&pins)?;
        let own = layout::mac_of(&self.settings()?);
        // Afterwards nobody can learn it again; but a program that had looked
        // before may write only now.
        for _ in 0..2 {
            for (key, bytes) in self.entries()? {
                let guest = layout::learned(&bytes);
                let mac = layout::mac_bytes(guest.mac);
                let pin = pins.get(&key);
                let of_others = protected.contains_key(&key) || pin.is_some_and(|pin| *pin != mac);
                if of_others || mac == own || pin.is_some() != guest.by_bridge {
                    gone(self.guests.remove(&key), "guests")?;
                }
            }
        }
        Ok(changed)
    }

    /// Who has an address by the ACL is a guest, whatever it was before.
    fn clear_gateways(&mut self, pins: &BTreeMap<Key, [u8; 8]>) -> Result<(), MacNatError> {
        let now = self.gateways.get(&0, 0);
        let now = now.map_err(|error| failure("reading", "gateways", &error))?;
        let pinned: BTreeSet<&[u8; 8]> = pins.values().collect();
        // The last two bytes say when.
        let of = |place: [u8; 8]| layout::mac_bytes(layout::mac_in(place));
        let left = now.map(|place| {
            if pinned.contains(&of(place)) {
                [0; 8]
            } else {
                place
            }
        });
        if left == now {
            return Ok(());
        }
        let done = self.gateways.set(0, left, 0);
        done.map_err(|error| failure("writing", "gateways", &error))
    }

    /// Whether the addresses that no guest, or only one, may claim are these.
    pub fn have_addresses(
        &self,
        addresses: &Addresses,
        broadcasts: &BTreeSet<IpAddr>,
    ) -> Result<bool, MacNatError> {
        let (protected, pins) = contents(addresses, broadcasts);
        let mut now: BTreeMap<Key, u32> = read(&self.protected, "protected")?.into_iter().collect();
        // What the programs have put there themselves is not wrong, and serves
        // as well.
        now.retain(|key, kind| *kind != layout::HOSTS || protected.contains_key(key));
        for (key, kind) in now.iter_mut().filter(|(_, kind)| **kind == layout::HOSTS) {
            *kind = protected.get(key).copied().unwrap_or(*kind);
        }
        let pinned: BTreeMap<Key, [u8; 8]> = read(&self.pins, "pins")?.into_iter().collect();
        Ok(now == protected && pinned == pins)
    }

    /// Whether the programs have heard of addresses of the host, or that it asked
    /// for, that they were not told.
    pub fn have_heard_host(&self) -> Result<bool, MacNatError> {
        let all = read(&self.protected, "protected")?;
        Ok(all.iter().any(|(_, kind)| *kind == layout::HOSTS))
    }

    /// Tells which prefixes are where. Returns whether anything was not so
    /// already.
    pub fn set_prefixes(&mut self, wanted: &Prefixes) -> Result<bool, MacNatError> {
        let now = self.prefixes()?;
        let trie = |(length, address): &(u32, Key)| TrieKey::new(*length, *address);
        for (prefix, place) in wanted
            .iter()
            .filter(|(prefix, place)| now.get(*prefix) != Some(*place))
        {
            self.prefixes
                .insert(&trie(prefix), place, 0)
                .map_err(|error| failure("writing", "prefixes", &error))?;
        }
        for prefix in now.keys().filter(|prefix| !wanted.contains_key(*prefix)) {
            gone(self.prefixes.remove(&trie(prefix)), "prefixes")?;
        }
        Ok(now != *wanted)
    }

    /// Whether the prefixes are these.
    pub fn have_prefixes(&self, wanted: &Prefixes) -> Result<bool, MacNatError> {
        Ok(self.prefixes()? == *wanted)
    }

    fn prefixes(&self) -> Result<Prefixes, MacNatError> {
        let entries = self.prefixes.iter();
        let read = entries.map(|entry| entry.map(|(key, place)| ((key.prefix_len(), key.data()), place)));
        read.collect::<Result<_, _>>()
            .map_err(|error| failure("reading", "prefixes", &error))
    }

    /// Whose addresses are.
    pub fn learned(&self) -> Result<Vec<(IpAddr, Learned)>, MacNatError> {
        let all = self.entries()?;
        Ok(all
            .iter()
            .map(|(key, bytes)| (layout::address(*key), layout::learned(bytes)))
            .collect())
    }

    /// Forgets the addresses of these ports. Returns whether there were any.
    pub fn forget(&mut self, ports: &BTreeSet<u32>) -> Result<bool, MacNatError> {
        let of_them = |bytes: &[u8; GUEST]| ports.contains(&layout::learned(bytes).port);
        let entries = self.entries()?;
        let mut any = false;
        for (key, _) in entries.iter().filter(|(_, bytes)| of_them(bytes)) {
            gone(self.guests.remove(key), "guests")?;
            any = true;
        }
        for port in ports {
            gone(self.ports.remove(port), "ports")?;
        }
        Ok(any)
    }

    pub fn is_pinned(&self, address: IpAddr, mac: MacAddr6) -> bool {
        self.pins.get(&layout::key(address), 0).ok() == Some(layout::mac_bytes(mac))
    }

    /// The addresses that are one guest's alone.
    pub fn pinned(&self) -> Result<BTreeMap<IpAddr, MacAddr6>, MacNatError> {
        let all = read(&self.pins, "pins")?;
        Ok(all
            .into_iter()
            .map(|(key, mac)| (layout::address(key), layout::mac_in(mac)))
            .collect())
    }

    fn entries(&self) -> Result<Vec<(Key, [u8; GUEST])>, MacNatError> {
        read(&self.guests, "guests")
    }

    /// Takes what other maps have of guests.
    pub fn inherit(&mut self, from: &Self) -> Result<(), MacNatError> {
        for (port, addresses) in read(&from.ports, "ports")? {
            let done = self.ports.insert(port, addresses, 0);
            done.map_err(|error| failure("writing", "ports", &error))?;
        }
        for (address, guest) in from.entries()? {
            let done = self.guests.insert(address, guest, 0);
            done.map_err(|error| failure("writing", "guests", &error))?;
        }
        Ok(())
    }

    pub fn counters(&self) -> Result<BTreeMap<&'static str, u64>, MacNatError> {
        let mut counted = BTreeMap::new();
        for (number, reason) in (0..).zip(REASONS) {
            let each = self
                .counters
                .get(&number, 0)
                .map_err(|error| failure("reading", "counters", &error))?;
            counted.insert(reason, each.iter().sum());
        }
        Ok(counted)
    }
}

/// What the two maps of addresses have to hold.
fn contents(
    addresses: &Addresses,
    broadcasts: &BTreeSet<IpAddr>,
) -> (BTreeMap<Key, u32>, BTreeMap<Key, [u8; 8]>) {
    let mut protected: BTreeMap<Key, u32> = BTreeMap::new();
    for (list, kind) in [
        (broadcasts, layout::BROADCAST),
        (&addresses.protected, layout::PROTECTED),
    ] {
        protected.extend(list.iter().map(|address| (layout::key(*address), kind)));
    }
    let pins = addresses.pins.iter();
    let pins = pins.map(|(address, mac)| (layout::key(*address), layout::mac_bytes(*mac)));
    (protected, pins.collect())
}

/// Opens maps, by their names.
fn open(ids: &BTreeSet<u32>) -> Result<BTreeMap<String, Map>, MacNatError> {
    let mut found = BTreeMap::new();
    for id in ids {
        let data = MapData::from_id(*id).map_err(|error| failure("opening", "a map", &error))?;
        let info = data
            .info()
            .map_err(|error| failure("asking for", "a map", &error))?;
        let name = info.name_as_str().unwrap_or_default().to_owned();
        let map = Map::from_map_data(data).map_err(|error| failure("opening", &name, &error))?;
        found.insert(name, map);
    }
    Ok(found)
}

/// Gives a map this content.
fn make_it<V: aya::Pod + PartialEq>(
    map: &mut HashMap<MapData, Key, V>,
    wanted: &BTreeMap<Key, V>,
    name: &str,
) -> Result<(), MacNatError> {
    let now: BTreeMap<Key, V> = read(map, name)?.into_iter().collect();
    for (key, value) in wanted.iter().filter(|(key, value)| now.get(*key) != Some(*value)) {
        map.insert(key, value, 0)
            .map_err(|error| failure("writing", name, &error))?;
    }
    for key in now.keys().filter(|key| !wanted.contains_key(*key)) {
        gone(map.remove(key), name)?;
    }
    Ok(())
}

/// All that is in a map. What comes and goes meanwhile may be left out.
fn read<K: aya::Pod, V: aya::Pod>(
    map: &HashMap<MapData, K, V>,
    name: &str,
) -> Result<Vec<(K, V)>, MacNatError> {
    let mut all = Vec::new();
    for entry in map.iter() {
        match entry {
            Ok(entry) => all.push(entry),
            Err(MapError::KeyNotFound) => {}
            Err(error) => return Err(failure("reading", name, &error)),
        }
    }
    Ok(all)
}

fn gone(removed: Result<(), MapError>, name: &str) -> Result<(), MacNatError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        done => done.map_err(|error| failure("writing", name, &error)),
    }
}

fn missing(name: &str) -> MacNatError {
    MacNatError {
        message: format!("MAC-NAT's programs have no map {name}"),
        remedy: Some("they are of another vmbr: vmbr down, then vmbr up"),
    }
}

/// The errors of a library say what failed in their sources.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = error.source();
    }
    text
}

fn failure(doing: &str, name: &str, error: &MapError) -> MacNatError {
    MacNatError {
        message: format!("{doing} {name} of MAC-NAT: {}", chain(error)),
        remedy: None,
    }
}
