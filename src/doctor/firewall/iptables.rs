//! The table `filter` as `iptables-save` tells it.

use super::{Chain, Condition, Place, Rule, Table, Verdict};

/// Reads what `PROGRAM-save` printed; `v6` where it is the program of IPv6.
pub fn parse(text: &str, program: &str, v6: bool) -> Table {
    let mut table = Table {
        place: Place::Iptables(program.to_owned()),
        v4: !v6,
        v6,
        chains: Vec::new(),
    };
    let mut in_filter = false;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            in_filter = name == "filter";
        } else if !in_filter {
            continue;
        } else if let Some(declared) = line.strip_prefix(':') {
            let mut words = declared.split(' ');
            let name = words.next().unwrap_or_default();
            table.chains.push(Chain {
                name: name.to_owned(),
                forward: name == "FORWARD",
                drops: words.next() == Some("DROP"),
                rules: Vec::new(),
            });
        } else if let Some(rest) = line.strip_prefix("-A ") {
            let words = words(rest);
            let Some((name, rule)) = words.split_first() else {
                continue;
            };
            if let Some(chain) = table.chains.iter_mut().find(|chain| chain.name == *name) {
                chain.rules.push(parse_rule(rule));
            }
        }
    }
    // A target that is no chain decides nothing (LOG, MARK).
    let names: Vec<String> = table.chains.iter().map(|chain| chain.name.clone()).collect();
    for rule in table.chains.iter_mut().flat_map(|chain| &mut chain.rules) {
        if let Some(Verdict::Jump(name) | Verdict::Goto(name)) = &rule.verdict {
            if !names.contains(name) {
                rule.verdict = None;
            }
        }
    }
    table
}

/// The words of a line; those with a space in them are in quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let (mut quoted, mut any) = (false, false);
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => (quoted, any) = (!quoted, true),
            '\\' if quoted => word.extend(characters.next()),
            ' ' if !quoted => {
                if any {
                    words.push(std::mem::take(&mut word));
                }
                any = false;
            }
            other => {
                word.push(other);
                any = true;
            }
        }
    }
    if any {
        words.push(word);
    }
    words
}

fn parse_rule(words: &[String]) -> Rule {
    let mut rule = Rule::default();
    let mut words = words.iter().map(String::as_str);
    let mut not = false;
    while let Some(word) = words.next() {
        match word {
            "!" => {
                not = true;
                continue;
            }
            "-i" | "-o" => rule.conditions.push(Condition::Device {
                names: words
                    .next()
                    .map(|name| name.replace('+', "*"))
                    .into_iter()
                    .collect(),
                not,
            }),
            "-m" => match words.next() {
                Some("comment" | "physdev") => {}
                _ => rule.conditions.push(Condition::Other),
            },
            "--comment" => {
                words.next();
            }
            "--physdev-is-bridged" if !not => rule.conditions.push(Condition::Port),
            // What follows belongs to the target.
            "-j" | "-g" => {
                let target = words.next().unwrap_or_default();
                rule.verdict = verdict(target, word == "-g");
                break;
            }
            // The argument of a word that was not understood.
            other if !other.starts_with('-') => {}
            _ => rule.conditions.push(Condition::Other),
        }
        not = false;
    }
    rule
}

fn verdict(target: &str, goto: bool) -> Option<Verdict> {
    Some(match target {
        // Whom a program decides for, it may let pass.
        "ACCEPT" | "NFQUEUE" | "QUEUE" => Verdict::Accept,
        "DROP" | "REJECT" => Verdict::Drop,
        "RETURN" => Verdict::Return,
        chain if goto => Verdict::Goto(chain.to_owned()),
        chain => Verdict::Jump(chain.to_owned()),
    })
}
