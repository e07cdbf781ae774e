//! nftables' rules as `nft -j` tells them (libnftables-json(5)); those that
//! iptables-nft makes are among them.

use serde_json::Value;

use super::{Chain, Condition, Place, Rule, Table, Verdict};

/// Reads what `nft -j list ruleset` printed.
///
/// # Errors
/// Text that is not nft's JSON.
pub fn parse(text: &str) -> Result<Vec<Table>, String> {
    let document: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let objects = document["nftables"].as_array().ok_or("no list of objects")?;
    let mut tables = Vec::new();
    for object in objects {
        if let Some(table) = object.get("table") {
            tables.extend(parse_table(table));
        } else if let Some(chain) = object.get("chain") {
            if let Some(table) = find(&mut tables, chain) {
                table.chains.push(Chain {
                    name: text_of(&chain["name"]),
                    forward: chain["hook"] == "forward" && chain["type"] == "filter",
                    drops: chain["policy"] == "drop",
                    rules: Vec::new(),
                });
            }
        } else if let Some(rule) = object.get("rule") {
            let name = text_of(&rule["chain"]);
            let table = find(&mut tables, rule);
            if let Some(chain) = table.and_then(|t| t.chains.iter_mut().find(|chain| chain.name == name)) {
                chain.rules.push(parse_rule(&rule["expr"]));
            }
        }
    }
    Ok(tables)
}

/// The numbers of the rules in what `nft -j list chain` printed that do
/// nothing but let pass what stays on `bridge`.
pub fn accepting(text: &str, bridge: &str) -> Vec<u64> {
    let device =
        |key| serde_json::json!({"match": {"op": "==", "left": {"meta": {"key": key}}, "right": bridge}});
    let wanted = serde_json::json!([device("iifname"), device("oifname"), {"accept": null}]);
    let document: Value = serde_json::from_str(text).unwrap_or_default();
    let objects = document["nftables"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let rules = objects.iter().filter_map(|object| object.get("rule"));
    rules
        .filter(|rule| rule["expr"] == wanted)
        .filter_map(|rule| rule["handle"].as_u64())
        .collect()
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn parse_table(table: &Value) -> Option<Table> {
    let family = text_of(&table["family"]);
    let (v4, v6) = match family.as_str() {
        "ip" => (true, false),
        "ip6" => (false, true),
        "inet" => (true, true),
        _ => return None,
    };
    Some(Table {
        place: Place::Nftables {
            family,
            table: text_of(&table["name"]),
        },
        v4,
        v6,
        chains: Vec::new(),
    })
}

fn find<'a>(tables: &'a mut [Table], object: &Value) -> Option<&'a mut Table> {
    let (family, name) = (object["family"].as_str()?, object["table"].as_str()?);
    tables.iter_mut().find(
        |table| matches!(&table.place, Place::Nftables { family: f, table: t } if f == family && t == name),
    )
}

fn parse_rule(expressions: &Value) -> Rule {
    let mut rule = Rule::default();
    let list = expressions.as_array().map(Vec::as_slice).unwrap_or_default();
    for (word, value) in list.iter().filter_map(Value::as_object).flatten() {
        match word.as_str() {
            "match" => rule.conditions.push(condition(value)),
            "xt" => extension(value, &mut rule),
            "accept" | "queue" => rule.verdict = Some(Verdict::Accept),
            "drop" | "reject" => rule.verdict = Some(Verdict::Drop),
            "return" => rule.verdict = Some(Verdict::Return),
            "jump" => rule.verdict = Some(Verdict::Jump(text_of(&value["target"]))),
            "goto" => rule.verdict = Some(Verdict::Goto(text_of(&value["target"]))),
            // These happen, and decide nothing.
            "counter" | "log" | "mangle" | "notrack" | "ct helper" | "comment" => {}
            _ => rule.conditions.push(Condition::Other),
        }
    }
    rule
}

fn condition(value: &Value) -> Condition {
    let key = value["left"]["meta"]["key"].as_str().unwrap_or_default();
    let names = names(&value["right"]);
    match (key, names) {
        ("iif" | "iifname" | "oif" | "oifname", Some(names)) => Condition::Device {
            names,
            not: value["op"] == "!=",
        },
        _ => Condition::Other,
    }
}

/// The names that are compared with: one, or a set that is written out.
fn names(right: &Value) -> Option<Vec<String>> {
    match right {
        // The name of a set, whose elements are elsewhere.
        Value::String(name) if name.starts_with('@') => None,
        Value::String(name) => Some(vec![name.clone()]),
        _ => {
            let set = right["set"].as_array()?;
            set.iter().map(|name| Some(name.as_str()?.to_owned())).collect()
        }
    }
}

/// What iptables-nft takes from the old iptables; older nft says nothing of it.
fn extension(value: &Value, rule: &mut Rule) {
    match (value["type"].as_str(), value["name"].as_str()) {
        (Some("match"), Some("comment")) => {}
        (Some("match"), Some("physdev")) => rule.conditions.push(Condition::Port),
        (Some("target"), Some("REJECT" | "DROP")) => rule.verdict = Some(Verdict::Drop),
        (Some("target"), Some(_)) => {}
        _ => rule.conditions.push(Condition::Other),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Firewall, FirewallChain};
    use super::*;

    fn ruleset(rules: &[&str]) -> String {
        let rules: Vec<String> = rules
            .iter()
            .map(|expr| {
                format!(
                    r#",{{"rule":{{"family":"inet","table":"t","chain":"f","handle":9,"expr":[{expr}]}}}}"#
                )
            })
            .collect();
        format!(
            r#"{{"nftables":[{{"metainfo":{{}}}},{{"table":{{"family":"inet","name":"t"}}}},
               {{"table":{{"family":"bridge","name":"t"}}}},
               {{"chain":{{"family":"bridge","table":"t","name":"f","type":"filter","hook":"forward","policy":"drop"}}}},
               {{"chain":{{"family":"inet","table":"t","name":"f","type":"filter","hook":"forward","prio":0,"policy":"drop"}}}},
               {{"chain":{{"family":"inet","table":"t","name":"other"}}}}{}]}}"#,
            rules.concat()
        )
    }

    fn dropping(rules: &[&str]) -> Vec<FirewallChain> {
        let firewall = Firewall {
            tables: parse(&ruleset(rules)).unwrap(),
            ..Firewall::default()
        };
        firewall.dropping(&"br0".parse().unwrap(), true, false)
    }

    const FROM: &str = r#"{"match":{"op":"==","left":{"meta":{"key":"iifname"}},"right":"br0"}}"#;
    const TO: &str = r#"{"match":{"op":"==","left":{"meta":{"key":"oifname"}},"right":"br0"}}"#;

    #[test]
    fn a_policy_drops_but_for_a_rule() {
        let all = dropping(&[]);
        assert_eq!(all.len(), 1, "the bridge family has rules of its own: {all:?}");
        assert_eq!(
            all[0].accept(&"br0".parse().unwrap()).join(" "),
            r#"nft insert rule inet t f iifname "br0" oifname "br0" accept"#
        );
        let accept = r#"{"accept":null}"#;
        assert!(dropping(&[&format!("{FROM},{TO},{{\"counter\":{{}}}},{accept}")]).is_empty());
        let set = r#"{"match":{"op":"==","left":{"meta":{"key":"iifname"}},"right":{"set":["eth1","br*"]}}}"#;
        assert!(dropping(&[&format!("{set},{accept}")]).is_empty());
        let unlike = FROM.replace("==", "!=");
        assert_eq!(dropping(&[&format!("{unlike},{accept}")]).len(), 1);
        let named = FROM.replace("\"br0\"", "\"@lans\"");
        assert_eq!(dropping(&[&format!("{named},{accept}")]).len(), 1);
        let state = r#"{"match":{"op":"in","left":{"ct":{"key":"state"}},"right":["established"]}}"#;
        assert_eq!(dropping(&[&format!("{state},{accept}")]).len(), 1);
    }

    #[test]
    fn firewalld_is_told_of_the_bridge() {
        let text = ruleset(&[]).replace(r#""table":"t""#, r#""table":"firewalld""#);
        let text = text.replace(r#""name":"t""#, r#""name":"firewalld""#);
        let firewall = Firewall {
            tables: parse(&text).unwrap(),
            ..Firewall::default()
        };
        let chains = firewall.dropping(&"br0".parse().unwrap(), true, true);
        assert_eq!(chains, [FirewallChain::Firewalld]);
    }

    #[test]
    fn jumps_are_followed() {
        let jump = r#"{"jump":{"target":"other"}}"#;
        assert_eq!(dropping(&[jump]).len(), 1);
        let text = ruleset(&[jump, r#"{"accept":null}"#]).replace(
            r#""chain":"f","handle":9,"expr":[{"accept""#,
            r#""chain":"other","handle":9,"expr":[{"accept""#,
        );
        let tables = parse(&text).unwrap();
        let firewall = Firewall {
            tables,
            ..Firewall::default()
        };
        assert!(firewall.dropping(&"br0".parse().unwrap(), true, true).is_empty());
    }

    #[test]
    fn our_own_rules_are_known_again() {
        let text = ruleset(&[
            &format!("{FROM},{TO},{{\"accept\":null}}"),
            &format!("{FROM},{{\"accept\":null}}"),
            &format!("{FROM},{TO},{{\"drop\":null}}"),
        ]);
        assert_eq!(accepting(&text, "br0"), [9]);
        assert!(accepting(&text, "br1").is_empty());
    }

    #[test]
    fn what_is_no_ruleset_is_no_answer() {
        assert!(parse("").is_err());
        assert!(parse("{}").is_err());
        assert!(parse(r#"{"nftables":[]}"#).unwrap().is_empty());
    }
}
