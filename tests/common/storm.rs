//! Many helpers at once.

use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};

use crate::common::stage::{Call, Stage};

/// Starts many helpers in one moment; each leaves what it sends unread, so its
/// TAP stays. perl-base is essential in Debian.
const STORM: &str = r#"
use Socket; use Fcntl;
my ($count, $helper, @arguments) = @ARGV;
pipe(my $gate, my $opener);
my (@children, @sockets);
for (1 .. $count) {
    socketpair(my $ours, my $theirs, AF_UNIX, SOCK_STREAM, PF_UNSPEC) or die "socketpair: $!";
    push @sockets, $ours;
    my $pid = fork();
    if (!$pid) {
        close $opener;
        fcntl($theirs, F_SETFD, 0);
        sysread($gate, my $byte, 1);
        open(STDERR, ">", "/dev/null");
        exec $helper, "--fd=" . fileno($theirs), @arguments;
        die "exec: $!";
    }
    push @children, $pid;
}
select(undef, undef, undef, 0.2);
close $opener;
my $won = 0;
for (@children) { waitpid($_, 0); $won++ if $? == 0; }
$| = 1;
print "$won\n";
sysread(STDIN, my $byte, 1);
"#;

/// The TAPs of a storm, which go with it.
pub struct Storm {
    child: Child,
    keep: Option<UnixStream>,
    /// How many of them got one.
    pub won: u32,
}

impl Storm {
    /// `count` helpers of one user.
    pub fn new(stage: &Stage, uid: u32, count: u32, arguments: &[&str]) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (count, helper) = (count.to_string(), stage.path("vmbr-helper").display().to_string());
        let mut words = vec!["-e", STORM, &count, &helper];
        words.extend(arguments);
        let call = Call::new(&words).program("/usr/bin/perl").uid(uid);
        let wrapper = ["sh", "-c", "exec \"$@\" <&3", "sh"];
        let mut command = stage.command(&call.wrapper(&wrapper));
        command
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        Self {
            child,
            keep: Some(ours),
            won: line.trim().parse().unwrap(),
        }
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        drop(self.keep.take());
        let _ = self.child.wait();
    }
}
