//! Roles: what a token may do, and where.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::name::Name;

/// What a token may do. A role is a set of permissions; see [`Role::permits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads everything but the content of secrets.
    Viewer,
    /// Keeps running what is deployed: scales, steers rollouts, retries, rebalances, drains hosts.
    Operator,
    /// Deploys: stacks, configs, secrets and keys, and all that an operator does with them.
    Deployer,
    /// May do everything.
    Admin,
}

/// One kind of thing that a role permits or does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Permission {
    /// To see it.
    Read,
    /// To scale services, steer rollouts, retry and rebalance.
    Operate,
    /// To say whether a host takes instances.
    Drain,
    /// To change what runs: stacks, configs, secrets, keys.
    Deploy,
    /// To change who may do what, and the rest: hosts, members, tokens, registries, environments, settings.
    Manage,
}

impl Role {
    /// All roles, the weakest first.
    pub const ALL: [Role; 4] = [Role::Viewer, Role::Operator, Role::Deployer, Role::Admin];

    /// Whether the role includes a permission. A deployer may do with services what an operator may, since a deployment
    /// can do it too; hosts are the operator's.
    pub fn permits(self, permission: Permission) -> bool {
        match permission {
            Permission::Read => true,
            Permission::Operate => self >= Role::Operator,
            Permission::Drain => matches!(self, Role::Operator | Role::Admin),
            Permission::Deploy => self >= Role::Deployer,
            Permission::Manage => self == Role::Admin,
        }
    }

    /// The role as it is written.
    pub fn word(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Deployer => "deployer",
            Role::Admin => "admin",
        }
    }
}

impl Permission {
    /// All permissions.
    pub const ALL: [Permission; 5] =
        [Permission::Read, Permission::Operate, Permission::Drain, Permission::Deploy, Permission::Manage];

    /// The roles that include it.
    pub fn roles(self) -> impl Iterator<Item = Role> {
        Role::ALL.into_iter().filter(move |role| role.permits(self))
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Role, String> {
        let known = Role::ALL.into_iter().find(|role| role.word() == text);
        known.ok_or_else(|| format!("{text:?} is not a role: there are viewer, operator, deployer and admin"))
    }
}

/// A role, and where it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Grant {
    /// The role.
    pub role: Role,
    /// The environments where it holds; absent for the whole cluster.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    pub environments: Option<BTreeSet<Name>>,
}

/// What a permission is needed for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    /// The cluster as a whole: its hosts, members, registries, settings.
    Cluster,
    /// An environment and what it holds.
    Environment(Name),
    /// An answer or a change that is limited to what the grant covers.
    Covered,
}

impl Grant {
    /// A role for the whole cluster.
    pub fn of_cluster(role: Role) -> Grant {
        Grant { role, environments: None }
    }

    /// Whether it permits something there.
    pub fn permits(&self, permission: Permission, resource: &Resource) -> bool {
        let holds_there = match resource {
            Resource::Cluster => self.environments.is_none(),
            Resource::Environment(name) => self.holds_in(name),
            Resource::Covered => true,
        };
        holds_there && self.role.permits(permission)
    }

    /// Whether it holds in an environment.
    pub fn holds_in(&self, environment: &Name) -> bool {
        self.environments.as_ref().is_none_or(|names| names.contains(environment))
    }

    /// Whether it permits everything that another one does: only such a grant may be handed out.
    pub fn covers(&self, other: &Grant) -> bool {
        let everywhere = match (&self.environments, &other.environments) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(own), Some(others)) => others.is_subset(own),
        };
        everywhere && Permission::ALL.into_iter().all(|one| self.role.permits(one) || !other.role.permits(one))
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.role)?;
        let Some(environments) = &self.environments else { return Ok(()) };
        let names: Vec<&str> = environments.iter().map(Name::as_str).collect();
        write!(f, " in {}", names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(role: Role, environments: &[&str]) -> Grant {
        let names = environments.iter().map(|name| Name::parse(name).expect("a name")).collect();
        Grant { role, environments: (!environments.is_empty()).then_some(names) }
    }

    #[test]
    fn each_role_permits_what_its_people_do() {
        use Permission::{Deploy, Drain, Manage, Operate, Read};
        let cases: [(Role, &[Permission]); 4] = [
            (Role::Viewer, &[Read]),
            (Role::Operator, &[Read, Operate, Drain]),
            (Role::Deployer, &[Read, Operate, Deploy]),
            (Role::Admin, &[Read, Operate, Drain, Deploy, Manage]),
        ];
        for (role, expected) in cases {
            let permitted: Vec<Permission> = Permission::ALL.into_iter().filter(|one| role.permits(*one)).collect();
            assert_eq!(permitted, expected, "{role}");
            assert_eq!(role.to_string().parse(), Ok(role));
        }
        assert!("root".parse::<Role>().is_err());
    }

    #[test]
    fn a_grant_holds_where_it_says() {
        let there = |name: &str| Resource::Environment(Name::parse(name).expect("a name"));
        let (everywhere, staging) = (grant(Role::Deployer, &[]), grant(Role::Deployer, &["staging"]));
        assert!(everywhere.permits(Permission::Deploy, &Resource::Cluster));
        assert!(everywhere.permits(Permission::Deploy, &there("staging")));
        assert!(!everywhere.permits(Permission::Manage, &Resource::Cluster));
        assert!(staging.permits(Permission::Deploy, &there("staging")));
        assert!(staging.permits(Permission::Read, &Resource::Covered));
        for elsewhere in [Resource::Cluster, there("production")] {
            assert!(!staging.permits(Permission::Read, &elsewhere), "{elsewhere:?}");
        }
    }

    #[test]
    fn nobody_hands_out_more_than_they_have() {
        let cases = [
            (grant(Role::Admin, &[]), grant(Role::Admin, &[]), true),
            (grant(Role::Admin, &[]), grant(Role::Operator, &["a"]), true),
            (grant(Role::Admin, &["a", "b"]), grant(Role::Admin, &["a"]), true),
            (grant(Role::Admin, &["a"]), grant(Role::Viewer, &["a", "b"]), false),
            (grant(Role::Admin, &["a"]), grant(Role::Viewer, &[]), false),
            (grant(Role::Deployer, &[]), grant(Role::Operator, &[]), false),
            (grant(Role::Operator, &[]), grant(Role::Deployer, &[]), false),
            (grant(Role::Viewer, &[]), grant(Role::Viewer, &["a"]), true),
        ];
        for (own, other, expected) in cases {
            assert_eq!(own.covers(&other), expected, "{own} covers {other}");
        }
    }
}
