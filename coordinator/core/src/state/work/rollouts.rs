//! Rollouts: how the change of a service to a new revision goes on, ends, stops and goes back.

use std::sync::Arc;

use common::{
    error::{Code, Problem},
    id::ServiceId,
    name::Name,
    output::LastLines,
    rollout::RolloutState,
    spec::{Canary, Constraint, Mode, ServiceSpec},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};

use super::{Applied, Instance, Service, State, not_found, stacks::MAX_REVISIONS};

/// How far the change of a service to its revision has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    /// Whether it goes on.
    pub state: RolloutState,
    /// Since when.
    pub since: Timestamp,
    /// The revision that failed, if this is the way back from it.
    pub back_from: Option<u64>,
    /// Why it was paused or goes back.
    pub why: String,
    /// What the instance printed last whose failure that is.
    pub output: LastLines,
    /// Whether all instances are to be of the revision; else the canary's alone.
    pub promoted: bool,
    /// The stack's revision that asked for it.
    pub deployment: u64,
    /// The service whose failure made this one fail, if one did.
    pub because_of: Option<Name>,
}

impl Rollout {
    /// Whether it has failed only because that of another service has: then nothing of the revision begins.
    pub fn because_of_another(&self) -> bool {
        self.state == RolloutState::Failed && self.because_of.is_some()
    }

    /// One that begins.
    pub fn begun(at: Timestamp, promoted: bool, deployment: u64) -> Rollout {
        Rollout {
            state: RolloutState::Rolling,
            since: at,
            back_from: None,
            why: String::new(),
            output: LastLines::default(),
            promoted,
            deployment,
            because_of: None,
        }
    }

    /// The same in another state; `failed` is what the first failed instance of the revision printed.
    fn moved_to(&self, state: RolloutState, at: Timestamp, why: &str, failed: LastLines) -> Rollout {
        let (why, output) = match state {
            RolloutState::Paused | RolloutState::Failed if why.is_empty() => (String::new(), LastLines::default()),
            RolloutState::Paused | RolloutState::Failed => (why.to_owned(), failed),
            // Why it goes back is worth knowing to the end; why it had paused is not once it goes on.
            RolloutState::Rolling | RolloutState::Done if self.back_from.is_some() => {
                (self.why.clone(), self.output.clone())
            }
            RolloutState::Rolling | RolloutState::Done => (String::new(), LastLines::default()),
        };
        Rollout { state, since: at, why, output, ..self.clone() }
    }
}

/// A revision of a service that served whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Version {
    /// The revision.
    pub revision: u64,
    /// What its instances run.
    pub spec: Arc<ServiceSpec>,
    /// The digest that its image was pinned to.
    pub digest: Option<String>,
}

impl Version {
    /// Whether its instances may fill slots of a service that changes to `next`. A run of a schedule is due whichever
    /// revision does it; any other job of an earlier revision is not what is to be done.
    pub fn may_stand_in(&self, next: &ServiceSpec) -> bool {
        let alike = self.spec.mode == next.mode && self.spec.strict_singleton == next.strict_singleton;
        alike && (next.mode != Mode::Job || (self.spec.cron.is_some() && next.cron.is_some()))
    }

    /// The image to run: by digest where one is pinned.
    pub fn image(&self) -> String {
        let image = &self.spec.container.image;
        match &self.digest {
            Some(digest) if !image.contains('@') => format!("{image}@{digest}"),
            _ => image.clone(),
        }
    }
}

impl Service {
    /// The first instances of its revision, while the others do not follow.
    pub fn canary(&self) -> Option<&Canary> {
        let goes_on = !self.rollout.promoted && self.rollout.state != RolloutState::Done;
        self.spec.update.canary.as_ref().filter(|_| goes_on)
    }

    /// Whether it is to be what served whole last.
    pub fn is_at_stable(&self) -> bool {
        self.stable.as_ref().is_some_and(|stable| stable.revision == self.revision)
    }

    /// Whether nothing more is to be changed for now, for a reason of its own.
    pub(in crate::state) fn is_held(&self) -> bool {
        matches!(self.rollout.state, RolloutState::Paused | RolloutState::Failed) || self.canary().is_some()
    }
}

impl Service {
    /// Refuses to move a rollout that is over.
    fn may_move_on(&self, id: &ServiceId) -> Result<(), Problem> {
        let refuse = |what: &str| Problem::new(Code::Conflict, format!("The rollout of {id} has {what}"));
        match self.rollout.state {
            RolloutState::Rolling | RolloutState::Paused => Ok(()),
            RolloutState::Done => {
                Err(refuse("already ended").why(format!("all of it is at revision {}", self.revision)))
            }
            RolloutState::Failed => Err(refuse("failed for good").why(self.rollout.why.clone()).fix(format!(
                "Fix the file and deploy it again, or retry: wharf retry {}/{}",
                id.stack.stack, id.service
            ))),
        }
    }

    /// Notes that its revision serves whole.
    fn note_served(&mut self) {
        let version = self.version();
        self.served.retain(|served| served.revision != version.revision);
        self.served.push_back(version.clone());
        while self.served.len() > MAX_REVISIONS {
            self.served.pop_front();
        }
        self.stable = Some(version);
    }
}

impl State {
    /// Moves the rollout of a revision on, if it is in the state that the author took it to be in.
    pub(in crate::state) fn move_rollout(
        &mut self,
        id: &ServiceId,
        expect_revision: u64,
        state: RolloutState,
        why: &str,
    ) -> Applied {
        let clock = self.basics.clock;
        let has_failed = matches!(state, RolloutState::Paused | RolloutState::Failed);
        let failed = if has_failed { self.output_of_failed(id, expect_revision) } else { None };
        let service = self.changing(id, expect_revision)?;
        if service.rollout.state == state {
            return self.done();
        }
        service.may_move_on(id)?;
        service.rollout = service.rollout.moved_to(state, clock, why, failed.unwrap_or_default());
        let Rollout { why, output, .. } = service.rollout.clone();
        let (reason, message) = match state {
            RolloutState::Rolling => ("rollout-resumed", format!("to revision {expect_revision}")),
            RolloutState::Paused => ("rollout-paused", why),
            RolloutState::Failed => ("rollout-failed", why),
            RolloutState::Done => {
                service.note_served();
                ("rollout-done", format!("all of it serves, at revision {expect_revision}"))
            }
        };
        let output = if has_failed { output } else { LastLines::default() };
        self.record_failure(id, reason, message, &output);
        if let Some(stack) = self.work.stacks.get_mut(&id.stack) {
            stack.note_served();
        }
        self.done()
    }

    /// Lets the rest of a service follow its canary.
    pub(in crate::state) fn promote(&mut self, id: &ServiceId, expect_revision: u64) -> Applied {
        let clock = self.basics.clock;
        let service = self.changing(id, expect_revision)?;
        if service.rollout.promoted || matches!(service.rollout.state, RolloutState::Done | RolloutState::Failed) {
            return Err(Problem::new(Code::Conflict, format!("{id} was not promoted"))
                .why("it has no canary that waits for a promotion"));
        }
        let state = RolloutState::Rolling;
        let (why, output, before) = (String::new(), LastLines::default(), service.rollout.clone());
        service.rollout = Rollout { state, promoted: true, since: clock, why, output, ..before };
        self.record(id, "rollout-promoted", format!("the rest follows to revision {expect_revision}"));
        self.done()
    }

    /// Returns a service to the last revision that served whole, and with it what waits for its change.
    pub(in crate::state) fn roll_back(&mut self, id: &ServiceId, expect_revision: u64, why: &str) -> Applied {
        let service = self.changing(id, expect_revision)?;
        let Some(to) = service.stable.as_ref().map(|stable| stable.revision).filter(|to| *to != expect_revision) else {
            return Err(Problem::new(Code::Conflict, format!("{id} was not rolled back"))
                .why("no earlier revision of it was fully up"));
        };
        let waiting = self.waiting_for(id);
        let mut specs = vec![(id.clone(), self.return_to_stable(id, why, None)?)];
        for dependant in waiting {
            let why = format!("it depends on {}, which failed: {why}", id.service);
            let because_of = Some(id.service.clone());
            if let Some(spec) = self.return_to_stable(&dependant, &why, because_of)? {
                specs.push((dependant, Some(spec)));
            }
        }
        let others: Vec<&str> = specs.iter().skip(1).map(|(id, _)| id.service.as_str()).collect();
        let with = if others.is_empty() { String::new() } else { format!(", and with it {}", others.join(", ")) };
        let what = format!("{} went back to what it was at revision {to}{with}: {why}", id.service);
        self.change_spec(&id.stack, what, |stack| {
            for (id, spec) in specs {
                let Some(spec) = spec else { continue };
                // What the stack says of volumes that it still has is newer.
                for name in spec.volumes() {
                    let told = || spec.volumes.get(name).cloned().unwrap_or_default();
                    stack.volumes.entry(name.clone()).or_insert_with(told);
                }
                stack.services.insert(id.service, (*spec).clone());
            }
        });
        self.done()
    }

    /// Returns a service to its stable revision; its spec then. One that has none can only fail.
    fn return_to_stable(
        &mut self,
        id: &ServiceId,
        why: &str,
        because_of: Option<Name>,
    ) -> Result<Option<Arc<ServiceSpec>>, Problem> {
        let clock = self.basics.clock;
        let services: Vec<Name> =
            self.work.stacks.get(&id.stack).iter().flat_map(|s| s.services.keys().cloned()).collect();
        let from = self.service(id).ok_or_else(|| not_found("service", id))?.revision;
        let output = self.output_of_failed(id, from).unwrap_or_default();
        let service = self.service_mut(id)?;
        let stable = service.stable.clone().filter(|stable| stable.revision != from);
        let state = if stable.is_some() { RolloutState::Rolling } else { RolloutState::Failed };
        service.rollout = Rollout {
            state,
            since: clock,
            back_from: Some(from),
            why: why.to_owned(),
            output: output.clone(),
            promoted: true,
            deployment: service.rollout.deployment,
            because_of,
        };
        let Some(stable) = stable else {
            self.record(id, "rollout-failed", why);
            return Ok(None);
        };
        let spec = Arc::new(as_it_was(&stable.spec, &service.spec, &services));
        service.revision = stable.revision;
        service.digest = stable.digest;
        service.spec = spec.clone();
        let message = format!("from revision {from} to {}: {why}", stable.revision);
        self.record_failure(id, "rolled-back", message, &output);
        Ok(Some(spec))
    }

    /// What the first instance of a revision that has failed printed last; of those that printed nothing, nothing.
    fn output_of_failed(&self, id: &ServiceId, revision: u64) -> Option<LastLines> {
        let has_failed = |i: &Instance| i.revision == revision && !i.observed.failure.is_empty();
        let mut failed = self.instances_of(id).map(|(_, i)| i).filter(|i| has_failed(i));
        failed.find(|i| !i.observed.output.is_empty()).map(|i| i.observed.output.clone())
    }

    fn changing(&mut self, id: &ServiceId, expect_revision: u64) -> Result<&mut Service, Problem> {
        let service = self.service_mut(id)?;
        if service.revision != expect_revision {
            return Err(Problem::new(Code::Conflict, format!("{id} was changed in the meantime"))
                .why(format!("it is at revision {}, not {expect_revision}", service.revision)));
        }
        Ok(service)
    }
}

/// An earlier spec among the services that there are now. How many there should be was not what failed, and what
/// it waited for then, or was to be near, may be gone.
fn as_it_was(stable: &ServiceSpec, now: &ServiceSpec, services: &[Name]) -> ServiceSpec {
    let most = if stable.strict_singleton { 1 } else { u32::MAX };
    let of_others = now.depends_on.iter().filter(|(on, _)| !now.sidekicks.contains_key(*on));
    let of_its_own = stable.depends_on.iter().filter(|(on, _)| stable.sidekicks.contains_key(*on));
    let known = |conditions: &[Constraint]| -> Vec<Constraint> {
        conditions.iter().filter(|condition| condition.names_only(services)).cloned().collect()
    };
    ServiceSpec {
        constraints: known(&stable.constraints),
        prefer: known(&stable.prefer),
        replicas: now.replicas.min(most),
        depends_on: of_others.chain(of_its_own).map(|(on, condition)| (on.clone(), *condition)).collect(),
        ..stable.clone()
    }
}
