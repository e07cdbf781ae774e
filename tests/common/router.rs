//! A router of the LAN, a real radvd.

// Each test file compiles its own copy of this module and uses a part of it.
#![allow(dead_code)]

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use crate::host::{Host, script_in};

/// A router of the LAN that advertises 2001:db8:a::/64 every few seconds.
pub struct Router {
    radvd: Child,
    directory: PathBuf,
}

impl Router {
    /// Starts to advertise.
    pub fn start(host: &Host) -> Self {
        Self::start_with(host, "MinRtrAdvInterval 3; MaxRtrAdvInterval 4;")
    }

    /// Starts to advertise five times a second, so that some advertisement
    /// comes in the middle of a change; the interval option permits that pace
    /// (RFC 6275, section 7.5).
    pub fn start_hasty(host: &Host) -> Self {
        Self::start_with(
            host,
            "AdvIntervalOpt on; MinRtrAdvInterval 0.15; MaxRtrAdvInterval 0.25;",
        )
    }

    fn start_with(host: &Host, pace: &str) -> Self {
        // A router forwards; radvd will not advertise without.
        script_in(
            &host.lan,
            "sysctl -qw net.ipv6.conf.all.forwarding=1
             ip addr add 2001:db8:a::1/64 dev lan0 nodad",
        );
        let directory = std::env::temp_dir().join(format!("vmbr-router-{}", host.lan.name()));
        fs::create_dir(&directory).unwrap();
        let configuration = directory.join("radvd.conf");
        fs::write(
            &configuration,
            format!(
                "interface lan0 {{
                AdvSendAdvert on;
                {pace}
                AdvDefaultLifetime 600;
                prefix 2001:db8:a::/64 {{ AdvValidLifetime 900; AdvPreferredLifetime 600; }};
             }};\n"
            ),
        )
        .unwrap();
        let log = fs::File::create(directory.join("log")).unwrap();
        let radvd = host
            .lan
            .command("radvd")
            .args(["--nodaemon", "--logmethod", "stderr", "--config"])
            .arg(&configuration)
            .arg("--pidfile")
            .arg(directory.join("pid"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("radvd: {e} (apt-get install radvd)"));
        Self { radvd, directory }
    }

    /// What it said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        // `ip netns exec` becomes the program that it runs.
        let _ = self.radvd.kill();
        let _ = self.radvd.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}
