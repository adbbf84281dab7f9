//! How a proposal stores its author: the cluster itself, a person, or a person with an address. Up to the level before
//! [`AUDIT`](crate::level::AUDIT) there were the first two, stored as an `Option` is.

use std::net::IpAddr;

use common::{name::Name, token::TokenId};
use serde::{Deserialize, Deserializer, Serializer};

use super::Person;

#[derive(Deserialize)]
enum Stored {
    Cluster,
    Person(TokenId, Name),
    PersonFrom(TokenId, Name, IpAddr),
}

pub(super) fn serialize<S: Serializer>(by: &Option<Person>, serializer: S) -> Result<S::Ok, S::Error> {
    match by {
        None => serializer.serialize_unit_variant("Stored", 0, "Cluster"),
        Some(Person { token, name, from: None }) => {
            serializer.serialize_newtype_variant("Stored", 1, "Person", &(token, name))
        }
        Some(Person { token, name, from: Some(from) }) => {
            serializer.serialize_newtype_variant("Stored", 2, "PersonFrom", &(token, name, from))
        }
    }
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Person>, D::Error> {
    Ok(match Stored::deserialize(deserializer)? {
        Stored::Cluster => None,
        Stored::Person(token, name) => Some(Person { token, name, from: None }),
        Stored::PersonFrom(token, name, from) => Some(Person { token, name, from: Some(from) }),
    })
}
