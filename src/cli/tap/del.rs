//! `vmbr tap del`.

use std::collections::BTreeSet;

use serde_json::json;

use crate::model::{IfName, Link};
use crate::netlink::ports;
use crate::plan::Refusal;
use crate::sys::syslog::Severity;

use super::outcome::{Error, log, print, print_json};
use super::{Args, few, look, require_privilege};
use crate::cli::args::TapDel;

/// Runs `vmbr tap del`.
pub fn run(del: &TapDel, args: &Args) -> Result<(), Error> {
    require_privilege()?;
    let live = look()?;
    let mut seen = BTreeSet::new();
    let names: Vec<&IfName> = del.names.iter().filter(|name| seen.insert(*name)).collect();
    let there: Vec<&Link> = names.iter().filter_map(|name| live.link(name)).collect();
    let refusals: Vec<Refusal> = there.iter().filter_map(|link| refusal(link, del.force)).collect();
    if !refusals.is_empty() {
        return Err(Error::Refused(refusals));
    }
    let gone: Vec<IfName> = there.iter().map(|link| link.name.clone()).collect();
    ports::remove(&gone).map_err(|error| Error::Failed {
        message: error.to_string(),
        remedy: "none was removed; if another program removes them, too, try again".into(),
    })?;
    if !gone.is_empty() {
        log(Severity::Notice, &format!("removed {}", few(gone.iter())));
    }
    if args.json {
        print_json(&json!({"removed": gone}));
        return Ok(());
    }
    let is_missing = |name: &&IfName| live.link(name).is_none();
    let missing: Vec<&IfName> = names.into_iter().filter(is_missing).collect();
    if !missing.is_empty() {
        print(&format!("already so: there is no {}", few(missing.into_iter())));
    }
    if !gone.is_empty() {
        let verb = if gone.len() == 1 { "is" } else { "are" };
        print(&format!("{} {verb} gone", few(gone.iter())));
    }
    Ok(())
}

/// Why a device is not removed. A VPN's TUN or TAP must not go by a slip of
/// the fingers: what is no TAP never goes, what is on no bridge or is held by
/// a program only when it is forced.
fn refusal(link: &Link, force: bool) -> Option<Refusal> {
    let name = &link.name;
    let see = || "see which there are: vmbr tap list".to_owned();
    let Some(tun) = &link.tun else {
        let kind = link.kind.as_deref().unwrap_or("NIC");
        return Some(Refusal::new(format!("{name} is no TAP, but a {kind}"), see()));
    };
    if !tun.tap {
        return Some(Refusal::new(
            format!("{name} is no TAP, but a TUN: a tunnel of this host"),
            see(),
        ));
    }
    let forced = || format!("to remove it all the same: vmbr tap del --force {name}");
    if force {
        return None;
    }
    if link.master.is_none() {
        return Some(Refusal::new(
            format!("{name} is on no bridge: it may be a VPN's"),
            forced(),
        ));
    }
    tun.held.then(|| {
        Refusal::new(
            format!("{name} is in use: a program holds it, a guest's for instance"),
            format!("stop the guest; {}", forced()),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::link::Tun;

    fn link(text: &str) -> Link {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn only_idle_taps_on_a_bridge_go_without_force() {
        let idle = link(
            r#"{"index":7,"name":"t0","kind":"tun","master":"br0","tun":{"tap":true,"persistent":true}}"#,
        );
        assert!(refusal(&idle, false).is_none());
        let with = |change: &dyn Fn(&mut Link)| {
            let mut link = idle.clone();
            change(&mut link);
            (refusal(&link, false).is_some(), refusal(&link, true).is_some())
        };
        let tun = |link: &mut Link, change: &dyn Fn(&mut Tun)| change(link.tun.as_mut().unwrap());
        assert_eq!(with(&|l| l.master = None), (true, false));
        assert_eq!(with(&|l| tun(l, &|t| t.held = true)), (true, false));
        assert_eq!(with(&|l| tun(l, &|t| t.tap = false)), (true, true));
        assert_eq!(with(&|l| l.tun = None), (true, true));
    }
}
