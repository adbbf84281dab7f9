//! Ids: random for machines, structured for everything that users name.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    base32,
    name::{InvalidName, Name},
};

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// The text does not have the form of the id.
    #[error("{text:?} is not {what} such as {example}")]
    Shape {
        /// The text as given, cut to 80 characters.
        text: String,
        /// The kind of id that was expected.
        what: &'static str,
        /// A valid example.
        example: &'static str,
    },
    /// A part of the text is not a valid name.
    #[error(transparent)]
    Name(#[from] InvalidName),
}

fn shape(text: &str, what: &'static str, example: &'static str) -> InvalidId {
    InvalidId::Shape { text: text.chars().take(80).collect(), what, example }
}

/// Implements serde and parsing for ids that are written as text.
macro_rules! as_text {
    ($type:ident) => {
        impl TryFrom<String> for $type {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<$type, InvalidId> {
                text.parse()
            }
        }
        impl From<$type> for String {
            fn from(id: $type) -> String {
                id.to_string()
            }
        }
        impl utoipa::PartialSchema for $type {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                <String as utoipa::PartialSchema>::schema()
            }
        }
        impl utoipa::ToSchema for $type {}
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

/// Defines an id of 80 bits, written as 16 characters of base32.
macro_rules! random_id {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(pub [u8; 10]);

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&base32::encode(&self.0))
            }
        }
        impl std::str::FromStr for $type {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<$type, InvalidId> {
                base32::decode(text).map($type).ok_or_else(|| shape(text, $what, "0vzesj61dhan3pfy"))
            }
        }
        as_text!($type);
    };
}

random_id!(
    /// A cluster; drawn at random when the cluster is created.
    ClusterId, "a cluster id"
);
random_id!(
    /// A host: the first 80 bits of the SHA-256 of its public key, so it cannot be chosen.
    HostId, "a host id"
);
random_id!(
    /// One boot of a host's kernel. If it changes, all processes on the host are new.
    BootId, "a boot id"
);

/// A coordinator in the Raft group. Never reused: a member that lost its disk gets a new number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(transparent)]
pub struct MemberId(pub u64);

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A stack: `environment/stack`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StackId {
    /// The environment that contains the stack.
    pub environment: Name,
    /// The stack's name, unique in its environment.
    pub stack: Name,
}

/// A service: `environment/stack/service`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceId {
    /// The stack that contains the service.
    pub stack: StackId,
    /// The service's name, unique in its stack.
    pub service: Name,
}

/// A slot of a service, kept across replacements: `environment/stack/service/slot`, numbered from 1.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SlotId {
    /// The service that the slot belongs to.
    pub service: ServiceId,
    /// The number of the slot, from 1.
    pub slot: u32,
}

/// One incarnation of a slot: `environment/stack/service/slot.incarnation`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceId {
    /// The slot that it fills.
    pub slot: SlotId,
    /// Increases with every replacement, so programs may use it as a fencing token.
    pub incarnation: u64,
}

impl StackId {
    /// The id of a service in this stack.
    pub fn service(&self, service: Name) -> ServiceId {
        ServiceId { stack: self.clone(), service }
    }
}

impl ServiceId {
    /// The id of a slot of this service.
    pub fn slot(&self, slot: u32) -> SlotId {
        SlotId { service: self.clone(), slot }
    }
}

impl SlotId {
    /// The id of an incarnation of this slot.
    pub fn instance(&self, incarnation: u64) -> InstanceId {
        InstanceId { slot: self.clone(), incarnation }
    }
}

impl InstanceId {
    /// The service of this instance.
    pub fn service(&self) -> &ServiceId {
        &self.slot.service
    }

    /// The stack of this instance.
    pub fn stack(&self) -> &StackId {
        &self.slot.service.stack
    }

    /// The name of its Docker container. It is unique, so Docker refuses to create a second one.
    pub fn container_name(&self) -> String {
        let StackId { environment, stack } = self.stack();
        let service = &self.service().service;
        format!("{environment}.{stack}.{service}.{}.{}", self.slot.slot, self.incarnation)
    }
}

impl fmt::Display for StackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.environment, self.stack)
    }
}

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.stack, self.service)
    }
}

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.slot)
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.slot, self.incarnation)
    }
}

impl std::str::FromStr for StackId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<StackId, InvalidId> {
        let (environment, stack) = text.split_once('/').ok_or_else(|| shape(text, "a stack id", "default/shop"))?;
        Ok(StackId { environment: environment.parse()?, stack: stack.parse()? })
    }
}

impl std::str::FromStr for ServiceId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<ServiceId, InvalidId> {
        let (stack, service) = text.rsplit_once('/').ok_or_else(|| shape(text, "a service id", "default/shop/web"))?;
        Ok(ServiceId { stack: stack.parse()?, service: service.parse()? })
    }
}

impl std::str::FromStr for SlotId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<SlotId, InvalidId> {
        let refuse = || shape(text, "a slot id", "default/shop/web/1");
        let (service, slot) = text.rsplit_once('/').ok_or_else(refuse)?;
        Ok(SlotId { service: service.parse()?, slot: slot.parse().map_err(|_| refuse())? })
    }
}

impl std::str::FromStr for InstanceId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<InstanceId, InvalidId> {
        let refuse = || shape(text, "an instance id", "default/shop/web/1.1");
        let (slot, incarnation) = text.rsplit_once('.').ok_or_else(refuse)?;
        Ok(InstanceId { slot: slot.parse()?, incarnation: incarnation.parse().map_err(|_| refuse())? })
    }
}

as_text!(StackId);
as_text!(ServiceId);
as_text!(SlotId);
as_text!(InstanceId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structural_ids_are_written_and_read() {
        let id: InstanceId = "default/shop/web/2.7".parse().expect("a well-formed id");
        assert_eq!(id.to_string(), "default/shop/web/2.7");
        assert_eq!(id.container_name(), "default.shop.web.2.7");
        for bad in ["", "a", "a/b/c", "a/b/c/x.1", "a/b/c/1.x", "a/b/c/d/1.1", "A/b/c/1.1", "a/b/c/1"] {
            assert!(bad.parse::<InstanceId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn random_ids_are_16_characters() {
        let id = HostId([7; 10]);
        assert_eq!(id.to_string().len(), 16);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("0vzesj61dhan3pf".parse::<HostId>().is_err());
    }
}
