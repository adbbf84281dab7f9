//! Stacks and their services.

use std::sync::Arc;

use common::{
    error::{Code, Problem},
    id::{ServiceId, StackId},
    name::Name,
    spec::{ServiceSpec, StackSpec},
    time::Timestamp,
};
use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use super::{Applied, Cluster, not_found};
use crate::command::Outcome;

/// A stack as it was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stack {
    /// Grows with each change of the spec.
    pub revision: u64,
    /// What was asked for.
    pub spec: Arc<StackSpec>,
    /// When that was.
    pub changed_at: Timestamp,
    /// Whether it ends: it goes when its last instance is gone.
    pub removing: bool,
    /// Its services.
    pub services: OrdMap<Name, Service>,
}

/// A service of a stack.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// The stack's revision that last changed what the instances run.
    pub revision: u64,
    /// What the instances run, and how many.
    pub spec: Arc<ServiceSpec>,
    /// The digest that the image's tag had when it was first pulled for this revision.
    pub digest: Option<String>,
}

impl Service {
    /// The image to run: by digest where one is pinned.
    pub fn image(&self) -> String {
        match &self.digest {
            Some(digest) if !self.spec.image.contains('@') => format!("{}@{digest}", self.spec.image),
            _ => self.spec.image.clone(),
        }
    }
}

impl Cluster {
    /// The service of that id, unless its stack is being removed.
    pub fn service(&self, id: &ServiceId) -> Option<&Service> {
        self.stacks.get(&id.stack).filter(|stack| !stack.removing)?.services.get(&id.service)
    }

    pub(super) fn put_stack(&mut self, id: &StackId, spec: &Arc<StackSpec>, expect: Option<u64>) -> Applied {
        self.known_environment(&id.environment)?;
        let existing = self.stacks.get(id);
        if existing.is_some_and(|stack| stack.removing) {
            return Err(Problem::new(Code::Conflict, format!("Stack {id} is being removed"))
                .fix("Try again when its last instance is gone: wharf ps"));
        }
        let revision = existing.map_or(0, |stack| stack.revision);
        if let Some(expected) = expect.filter(|expected| *expected != revision) {
            return Err(Problem::new(Code::Conflict, format!("Stack {id} was changed in the meantime"))
                .why(format!("its revision is {revision}, and the request expects {expected}"))
                .fix("Look at the new plan: wharf diff"));
        }
        let violations = spec.validate();
        if !violations.is_empty() {
            let problem = Problem::new(Code::InvalidRequest, format!("Stack {id} cannot be deployed"));
            return Err(violations.iter().fold(problem, |problem, violation| problem.why(violation.to_string())));
        }
        if existing.is_some_and(|stack| stack.spec == *spec) {
            return Ok(Outcome::Revision(revision));
        }
        let revision = revision + 1;
        let earlier = existing.map(|stack| &stack.services);
        let service = |name: &Name, spec: &ServiceSpec| match earlier.and_then(|services| services.get(name)) {
            Some(service) if service.spec.same_instances(spec) => {
                Service { spec: Arc::new(spec.clone()), ..service.clone() }
            }
            _ => Service { revision, spec: Arc::new(spec.clone()), digest: None },
        };
        let services = spec.services.iter().map(|(name, spec)| (name.clone(), service(name, spec))).collect();
        self.stacks.insert(
            id.clone(),
            Stack { revision, spec: spec.clone(), changed_at: self.clock, removing: false, services },
        );
        self.forget_slots(id);
        self.record(id, "stack-deployed", format!("revision {revision} was deployed"));
        Ok(Outcome::Revision(revision))
    }

    pub(super) fn remove_stack(&mut self, id: &StackId) -> Applied {
        let stack = self.stacks.get_mut(id).ok_or_else(|| not_found("stack", id))?;
        if !stack.removing {
            stack.removing = true;
            self.record(id, "stack-removed", "the stack is being removed");
        }
        self.drop_empty_stack(id);
        self.done()
    }

    /// Forgets a stack that ends once nothing is left of it.
    pub(super) fn drop_empty_stack(&mut self, id: &StackId) {
        let ends = self.stacks.get(id).is_some_and(|stack| stack.removing);
        if !ends || self.instances_of_stack(id).next().is_some() {
            return;
        }
        self.stacks.remove(id);
        self.forget_slots(id);
        self.record(id, "stack-gone", "its last instance is gone");
    }

    pub(super) fn scale_service(&mut self, id: &ServiceId, replicas: u32) -> Applied {
        if replicas > 10_000 {
            return Err(Problem::new(Code::InvalidRequest, format!("Service {id} was not scaled"))
                .why(format!("{replicas} are more than the 10000 instances allowed")));
        }
        let stack = self
            .stacks
            .get_mut(&id.stack)
            .filter(|stack| !stack.removing)
            .ok_or_else(|| not_found("stack", &id.stack))?;
        let service = stack.services.get_mut(&id.service).ok_or_else(|| not_found("service", id))?;
        if service.spec.replicas == replicas {
            return Ok(Outcome::Revision(stack.revision));
        }
        let before = service.spec.replicas;
        Arc::make_mut(&mut service.spec).replicas = replicas;
        let spec = Arc::make_mut(&mut stack.spec);
        if let Some(service) = spec.services.get_mut(&id.service) {
            service.replicas = replicas;
        }
        stack.revision += 1;
        stack.changed_at = self.clock;
        let revision = stack.revision;
        self.record(id, "service-scaled", format!("from {before} to {replicas} instances"));
        Ok(Outcome::Revision(revision))
    }

    pub(super) fn pin_image(&mut self, id: &ServiceId, expect_revision: u64, digest: &str) -> Applied {
        let service = self.stacks.get_mut(&id.stack).and_then(|stack| stack.services.get_mut(&id.service));
        let service = service.ok_or_else(|| not_found("service", id))?;
        if service.revision != expect_revision || service.digest.is_some() {
            return Err(Problem::new(Code::Conflict, format!("The image of {id} is pinned or was changed")));
        }
        service.digest = Some(digest.to_owned());
        let message = format!("{} is {digest} for this revision", service.spec.image);
        self.record(id, "image-pinned", message);
        self.done()
    }
}
