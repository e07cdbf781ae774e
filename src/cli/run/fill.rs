//! Descriptors in the words of a command. No I/O.
//!
//! Only what is one of these words in braces is replaced; every other brace
//! stays, for commands have JSON in them.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// What a command gets: one of each for a queue.
pub struct Descriptors {
    /// The TAP's queues.
    pub fds: Vec<i32>,
    /// Of /dev/vhost-net; none if it was not asked for.
    pub vhostfds: Vec<i32>,
}

/// The command with the descriptors in it: `{fds}` is all of them with colons
/// (QEMU), `{fds,}` with commas (cloud-hypervisor), `{fd0}` the first one
/// (crosvm), and `{vhostfds}`, `{vhostfds,}`, `{vhostfd0}` the same of vhost.
///
/// # Errors
/// A sentence: the command does not take what was asked for, or takes what
/// was not.
pub fn fill(command: &[OsString], descriptors: &Descriptors) -> Result<Vec<OsString>, String> {
    let mut used = Used::default();
    let filled = command
        .iter()
        .map(|word| fill_word(word.as_bytes(), descriptors, &mut used).map(OsString::from_vec))
        .collect::<Result<_, _>>()?;
    if !used.fds {
        let nothing = "nothing in COMMAND takes the TAP: write {fds} where its descriptors belong";
        return Err(match used.unknown {
            Some(word) => format!("{nothing}, or {{fds,}} or {{fd0}}; {word} is none of these"),
            None => nothing.to_owned(),
        });
    }
    match (used.vhostfds, descriptors.vhostfds.is_empty()) {
        (true, true) => Err("COMMAND wants {vhostfds}: say --vhost".to_owned()),
        (false, false) => Err("nothing in COMMAND takes {vhostfds}, and yet there is --vhost".to_owned()),
        _ => Ok(filled),
    }
}

#[derive(Default)]
struct Used {
    fds: bool,
    vhostfds: bool,
    /// What stayed, and was maybe meant.
    unknown: Option<String>,
}

fn fill_word(mut word: &[u8], descriptors: &Descriptors, used: &mut Used) -> Result<Vec<u8>, String> {
    let mut filled = Vec::with_capacity(word.len());
    while let Some(start) = word.iter().position(|&b| b == b'{') {
        let (before, braced) = word.split_at(start);
        filled.extend_from_slice(before);
        let end = braced.iter().position(|&b| b == b'}').map(|end| end + 1);
        let name = end.and_then(|end| std::str::from_utf8(&braced[..end]).ok());
        match name
            .map(|name| value(name, descriptors, used))
            .transpose()?
            .flatten()
        {
            Some(value) => {
                filled.extend_from_slice(value.as_bytes());
                word = &braced[end.unwrap_or_default()..];
            }
            None => {
                filled.push(b'{');
                word = &braced[1..];
            }
        }
    }
    filled.extend_from_slice(word);
    Ok(filled)
}

/// What `{name}` stands for, if for anything.
fn value(braced: &str, descriptors: &Descriptors, used: &mut Used) -> Result<Option<String>, String> {
    let inner = braced.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    let Some(name) = inner else { return Ok(None) };
    let (numbers, rest) = if let Some(rest) = name.strip_prefix("vhostfd") {
        (&descriptors.vhostfds, rest)
    } else if let Some(rest) = name.strip_prefix("fd") {
        (&descriptors.fds, rest)
    } else {
        return Ok(None);
    };
    let all = |between: &str| {
        let texts: Vec<String> = numbers.iter().map(i32::to_string).collect();
        texts.join(between)
    };
    let one = !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit());
    let value = match rest {
        "s" => all(":"),
        "s," => all(","),
        _ if one => match rest.parse().ok().and_then(|place: usize| numbers.get(place)) {
            Some(number) => number.to_string(),
            None if numbers.is_empty() => String::new(),
            None => {
                return Err(format!(
                    "there is no {braced}: the first of {} is {{fd0}}",
                    numbers.len()
                ));
            }
        },
        _ => {
            used.unknown = Some(braced.to_owned());
            return Ok(None);
        }
    };
    if name.starts_with("vhost") {
        used.vhostfds = true;
    } else {
        used.fds = true;
    }
    Ok(Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(words: &[&str], fds: &[i32], vhostfds: &[i32]) -> Result<Vec<String>, String> {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        let descriptors = Descriptors {
            fds: fds.to_vec(),
            vhostfds: vhostfds.to_vec(),
        };
        let filled = fill(&words, &descriptors)?;
        Ok(filled
            .into_iter()
            .map(|word| word.into_string().unwrap())
            .collect())
    }

    #[test]
    fn each_vmm_gets_them_as_it_wants_them() {
        for (word, expected) in [
            (
                "tap,id=n0,fds={fds},vhost=on,vhostfds={vhostfds}",
                "tap,id=n0,fds=3:4,vhost=on,vhostfds=7:8",
            ),
            ("fd=[{fds,}],vhost=[{vhostfds,}]", "fd=[3,4],vhost=[7,8]"),
            ("tap-fd={fd0}/{fd1}/{vhostfd1}", "tap-fd=3/4/8"),
            ("{{fds}}{vhostfd0}", "{3:4}7"),
        ] {
            assert_eq!(filled(&[word], &[3, 4], &[7, 8]).unwrap(), [expected]);
        }
    }

    #[test]
    fn other_braces_stay() {
        let json = r#"{"driver":"virtio-net-pci","fds":"{fds}","x":{}}"#;
        let words = [
            "qemu",
            json,
            "{",
            "}",
            "{fd",
            "{fdx}",
            "{fds;}",
            "{f{fd0}ds}",
            "{FDS}",
            "{fd-1}",
        ];
        let mut expected = words.map(str::to_owned);
        expected[1] = json.replace("{fds}", "3");
        expected[7] = "{f3ds}".into();
        assert_eq!(filled(&words, &[3], &[]).unwrap(), expected);
    }

    #[test]
    fn what_is_asked_for_is_taken_and_nothing_else() {
        for (word, vhostfds, said) in [
            ("qemu", &[][..], "nothing in COMMAND takes the TAP"),
            ("{fds} {vhostfds}", &[], "say --vhost"),
            ("{fds} {vhostfd0}", &[], "say --vhost"),
            ("{fds}", &[7, 8], "nothing in COMMAND takes {vhostfds}"),
            ("{fd2}", &[], "there is no {fd2}"),
            ("tap,fds={fd}", &[], "{fd} is none of these"),
            ("{fds} {vhostfd99999999999999999999}", &[7, 8], "there is no"),
        ] {
            let error = filled(&[word], &[3, 4], vhostfds).unwrap_err();
            assert!(error.contains(said), "{word}: {error}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_pass() {
        let word = OsString::from_vec(b"\xff{\xfe}{fds}\xff".to_vec());
        let descriptors = Descriptors {
            fds: vec![3],
            vhostfds: Vec::new(),
        };
        let filled = fill(&[word], &descriptors).unwrap();
        assert_eq!(filled[0].as_bytes(), b"\xff{\xfe}3\xff");
    }
}
