//! Environments as people see them.

use common::{api::EnvironmentView, name::Name};

use crate::State;

/// All environments.
pub fn environments(cluster: &State) -> Vec<EnvironmentView> {
    let view = |name: &Name| {
        let stacks = cluster.stacks().keys().filter(|id| id.environment == *name);
        EnvironmentView {
            name: name.clone(),
            created_at: cluster.environments().get(name).copied().unwrap_or_default(),
            stacks: stacks.map(|id| id.stack.clone()).collect(),
            joined_by: cluster.guests_of(name).collect(),
        }
    };
    cluster.environments().keys().map(view).collect()
}
