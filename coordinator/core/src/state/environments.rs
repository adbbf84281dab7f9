//! Environments: what belongs to none in common does not reach each other.

use common::{
    error::{Code, Problem},
    id::ServiceId,
    name::{Name, default_environment},
};

use common::time::Timestamp;
use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use super::{Applied, State, not_found, set_back::Back};

/// Most environments.
const MAX_ENVIRONMENTS: usize = 1000;
/// Most things that an environment is said to hold.
const MAX_TOLD: usize = 5;

/// The section of environments.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Environments {
    /// Each with the time when it was made.
    made: OrdMap<Name, Timestamp>,
}

impl Environments {
    pub(super) fn insert(&mut self, name: Name, at: Timestamp) {
        self.made.insert(name, at);
    }

    /// Sets all times back.
    pub(super) fn set_back(&mut self, back: Back) {
        back.each(&mut self.made, |at| back.time(at));
    }
}

impl State {
    /// The environments, each with the time when it was made.
    pub fn environments(&self) -> &OrdMap<Name, Timestamp> {
        &self.environments.made
    }

    /// Refuses what is said of an environment that there is not.
    pub fn known_environment(&self, name: &Name) -> Result<(), Problem> {
        if self.environments.made.contains_key(name) {
            return Ok(());
        }
        let problem = not_found("environment", name).fix("List the environments: wharf env ls");
        Err(problem.fix(format!("Or create it: wharf env create {name}")))
    }

    pub(super) fn put_environment(&mut self, name: &Name) -> Applied {
        if self.environments.made.contains_key(name) {
            return self.done();
        }
        if self.environments.made.len() >= MAX_ENVIRONMENTS {
            return Err(Problem::new(Code::Conflict, format!("The environment {name} was not created"))
                .why(format!("there are already {MAX_ENVIRONMENTS} environments, which is the limit")));
        }
        self.environments.made.insert(name.clone(), self.basics.clock);
        self.record(name, "environment-made", "the environment was made");
        self.done()
    }

    pub(super) fn remove_environment(&mut self, name: &Name) -> Applied {
        self.known_environment(name)?;
        let refused = || Problem::new(Code::Conflict, format!("The environment {name} was not removed"));
        if *name == default_environment() {
            return Err(refused().why("every cluster needs this environment"));
        }
        let held: Vec<String> = self.held_by(name).take(MAX_TOLD + 1).collect();
        if !held.is_empty() {
            let told = held.iter().take(MAX_TOLD).fold(refused(), |problem, held| problem.why(held));
            return Err(if held.len() > MAX_TOLD { told.why("and more") } else { told });
        }
        self.environments.made.remove(name);
        self.end_grants_in(name);
        self.record(name, "environment-removed", "the environment was removed");
        self.done()
    }

    /// What an environment holds, and who has joined it.
    fn held_by(&self, name: &Name) -> impl Iterator<Item = String> {
        let stacks = self.stacks().keys().filter(|id| id.environment == *name);
        let stacks = stacks.map(|id| format!("the stack {} is in it", id.stack));
        let files = self.files().keys().filter(|id| id.environment == *name && id.stack.is_none());
        let files = files.map(|id| format!("the {} {} is in it", id.kind, id.name));
        let keys = self.keys().keys().filter(|key| key.0 == *name);
        let keys = keys.map(|(_, key)| format!("the key {key} is in it"));
        let guests = self.guests_of(name).map(|id| format!("the service {id} has joined it"));
        stacks.chain(files).chain(keys).chain(guests)
    }

    /// The services of other environments that have joined one.
    pub fn guests_of(&self, environment: &Name) -> impl Iterator<Item = ServiceId> {
        let services = self.stacks().iter().flat_map(|(id, stack)| {
            stack.services.iter().map(|(service, found)| (id.service(service.clone()), &found.spec))
        });
        services.filter(|(_, spec)| spec.joins.contains(environment)).map(|(id, _)| id)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use common::spec::StackSpec;

    use super::*;
    use crate::{
        Command,
        testing::{Fixture, name, stack, web},
    };

    fn refused(fixture: &mut Fixture, environment: &str) -> String {
        fixture.refused(Command::RemoveEnvironment(name(environment)))
    }

    #[test]
    fn an_environment_goes_only_when_it_holds_nothing_and_nobody_has_joined_it() {
        let mut fixture = Fixture::of_hosts(1);
        assert!(refused(&mut fixture, "shared").contains("There is no environment shared"));
        assert!(refused(&mut fixture, "default").contains("every cluster needs this environment"));
        let joining = web(|spec| spec.joins = [name("shared")].into());
        let spec = StackSpec { services: [(name("web"), joining.clone())].into(), ..StackSpec::default() };
        let (id, spec, files, what) = (stack(), Arc::new(spec), Vec::new(), String::new());
        let put = Command::PutStack { id, spec, files, expect_revision: None, what, goes_back: false };
        assert!(fixture.refused(put).contains("There is no environment shared"), "what there is not cannot be joined");

        fixture.done(Command::PutEnvironment(name("shared")));
        fixture.done(Command::PutEnvironment(name("shared")));
        assert_eq!(fixture.cluster.environments().len(), 2);
        fixture.deploy(&[("web", joining)]);
        assert!(refused(&mut fixture, "shared").contains("the service default/shop/web has joined it"));
        fixture.deploy(&[("web", web(|_| {}))]);
        for number in 0..=MAX_TOLD {
            let key = format!("k{number}").into();
            fixture.done(Command::PutKey { environment: name("shared"), key, value: Arc::from(*b"v") });
        }
        let told = refused(&mut fixture, "shared");
        assert!(told.contains("the key k0 is in it") && told.contains("and more"), "{told}");
        for number in 0..=MAX_TOLD {
            fixture.done(Command::RemoveKey { environment: name("shared"), key: format!("k{number}").into() });
        }
        fixture.done(Command::RemoveEnvironment(name("shared")));
        assert_eq!(fixture.cluster.environments().len(), 1);
    }
}
