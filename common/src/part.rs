//! The parts of an instance, one container each.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    id::{InstanceId, InvalidId},
    name::Name,
};

/// One of the containers of an instance.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Part {
    /// The main container; the only part of most instances.
    Main,
    /// The holder of the network that the main container and its sidekicks share, so that each can be restarted alone.
    Network,
    /// A step before the start, numbered from 1.
    Step(u32),
    /// A container beside the main one.
    Sidekick(Name),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // No name starts with this character.
            Part::Main => f.write_str("_main"),
            Part::Network => f.write_str("_network"),
            Part::Step(number) => write!(f, "_step-{number}"),
            Part::Sidekick(name) => name.fmt(f),
        }
    }
}

impl std::str::FromStr for Part {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Part, InvalidId> {
        match text {
            "_main" => Ok(Part::Main),
            "_network" => Ok(Part::Network),
            _ => match text.strip_prefix("_step-").and_then(|number| number.parse().ok()) {
                Some(number) => Ok(Part::Step(number)),
                None => Ok(Part::Sidekick(text.parse()?)),
            },
        }
    }
}

impl Part {
    /// The part in messages.
    pub fn told(&self) -> String {
        match self {
            Part::Main => "the main container".to_owned(),
            Part::Network => "the network holder".to_owned(),
            Part::Step(number) => format!("pre_start step {number}"),
            Part::Sidekick(name) => format!("sidekick {name}"),
        }
    }
}

/// A part of a specific instance.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartId {
    /// The instance's id.
    pub instance: InstanceId,
    /// The part of the instance.
    pub part: Part,
}

impl PartId {
    /// The name of its Docker container. It is unique, so Docker refuses to create a second one.
    pub fn container_name(&self) -> String {
        match &self.part {
            Part::Main => self.instance.container_name(),
            part => format!("{}.{part}", self.instance.container_name()),
        }
    }
}

impl fmt::Display for PartId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.part {
            Part::Main => self.instance.fmt(f),
            part => write!(f, "{} ({part})", self.instance),
        }
    }
}

impl InstanceId {
    /// The id of a part of this instance.
    pub fn part(&self, part: Part) -> PartId {
        PartId { instance: self.clone(), part }
    }

    /// The id of its main container.
    pub fn main(&self) -> PartId {
        self.part(Part::Main)
    }
}

impl From<Part> for String {
    fn from(part: Part) -> String {
        part.to_string()
    }
}

impl TryFrom<String> for Part {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Part, InvalidId> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_written_and_read() {
        for part in [Part::Main, Part::Network, Part::Step(12), Part::Sidekick("network".parse().expect("a name"))] {
            assert_eq!(part.to_string().parse::<Part>().ok(), Some(part));
        }
        assert!("_step-x".parse::<Part>().is_err());
        let id: InstanceId = "default/shop/web/2.7".parse().expect("an id");
        assert_eq!(id.main().container_name(), "default.shop.web.2.7");
        assert_eq!(id.part(Part::Step(1)).container_name(), "default.shop.web.2.7._step-1");
    }
}
