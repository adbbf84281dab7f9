//! The rules that a host's kernel holds: whether it still does, and how to get from them to others.

use super::{TABLE, rules::Rules};

/// The families of our tables.
pub const FAMILIES: [&str; 3] = ["bridge", "ip6", "ip"];

/// The rules that were loaded last, and how the kernel showed them then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The rules.
    pub rules: Rules,
    /// How the kernel showed them after that.
    pub listed: Listed,
}

impl Loaded {
    /// The same, if the kernel still shows what it showed. Otherwise the agent loads all rules again, as it does with
    /// those of an earlier process; no packet notices that.
    pub fn still_there(self, shown: Option<&Listed>) -> Option<Loaded> {
        (shown == Some(&self.listed)).then_some(self)
    }
}

/// Our tables as the kernel shows them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listed {
    /// The part that is the same whatever instances there are.
    fixed: String,
    /// The part that changes as instances come and go.
    live: String,
}

impl Listed {
    /// Picks our tables out of a ruleset. A table begins and ends at the left margin, a chain, set or map one step to
    /// the right.
    pub fn of(ruleset: &str) -> Listed {
        let heads = FAMILIES.map(|family| format!("table {family} {TABLE} {{"));
        let (mut is_own, mut is_live) = (false, false);
        let mut listed = Listed::default();
        for line in ruleset.lines() {
            if line.starts_with("table ") {
                is_own = heads.iter().any(|head| head == line);
            }
            // An empty line stands between any two chains, also of others.
            if !is_own || line.is_empty() {
                continue;
            }
            let head = line.strip_prefix('\t').filter(|rest| !rest.starts_with('\t'));
            let name = head.and_then(|head| head.strip_suffix(" {")).and_then(|head| head.split(' ').nth(1));
            if let Some(name) = name {
                is_live = Rules::is_live(name);
            }
            let part = if is_live { &mut listed.live } else { &mut listed.fixed };
            part.push_str(line);
            part.push('\n');
            is_live &= head != Some("}");
        }
        listed
    }

    /// Checks a listing after an update of the live part: an error if another part differs from before.
    pub fn updated(&self, shown: Listed) -> Result<Listed, &'static str> {
        if shown.fixed == self.fixed { Ok(shown) } else { Err("something else has changed them") }
    }
}

/// The way to some rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// A script for `nft -f`; empty if the kernel holds all of it.
    pub script: String,
    /// Whether connections that were begun earlier may be stale afterwards.
    pub ends_flows: bool,
}

impl Rules {
    /// The way to these rules from those that the kernel holds: only the live part if nothing else differs, else all of
    /// them. The agent does not know the rules of an earlier process, which may have let pass anything.
    pub fn load(&self, held: Option<&Rules>) -> Load {
        let update = held.and_then(|held| self.update_from(held));
        let ends_flows = held.is_none_or(|held| self.end_something_of(held));
        Load { script: update.unwrap_or_else(|| self.whole()), ends_flows }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ruleset(fixed: &str, live: &str) -> String {
        format!(
            "table ip nat {{\n\tchain x {{\n\t}}\n}}\ntable ip wharf {{\n\tset peers {{\n\t}}\n\n\tchain service-1 {{\n\t\t{live}\
             \n\t}}\n\n\tchain post {{\n\t\t{fixed}\n\t}}\n}}\ntable ip6 wharf {{\n}}\ntable inet wharf {{\n}}\ntable ip wharf2 {{\n}}\n"
        )
    }

    #[test]
    fn of_a_ruleset_only_our_tables_are_looked_at() {
        let Listed { fixed, live } = Listed::of(&ruleset("b", "a"));
        assert_eq!(live, "\tchain service-1 {\n\t\ta\n\t}\n");
        assert_eq!(
            fixed,
            "table ip wharf {\n\tset peers {\n\t}\n\tchain post {\n\t\tb\n\t}\n}\ntable ip6 wharf {\n}\n"
        );
    }

    #[test]
    fn only_the_live_part_may_differ_after_an_update_of_it() {
        let before = Listed::of(&ruleset("b", "a"));
        for (fixed, live, is_expected) in [("b", "a", true), ("b", "c", true), ("c", "a", false), ("c", "c", false)] {
            let shown = Listed::of(&ruleset(fixed, live));
            let expected = if is_expected { Ok(shown.clone()) } else { Err("something else has changed them") };
            assert_eq!(before.updated(shown), expected, "{fixed} {live}");
        }
    }
}
