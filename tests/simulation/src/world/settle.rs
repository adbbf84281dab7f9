//! The checks after all faults are repaired.

use std::collections::BTreeSet;

use agent_core::ContainerState;
use common::{
    id::{HostId, ServiceId},
    instance::Health,
    part::PartId,
    time::Span,
};
use coordinator_core::{Command, Proposal, plan, state::Stack};

use super::World;
use crate::oracle::{Checked, nothing_is_left_over, what_runs_is_wanted};

/// How long a repaired cluster may take until it reaches the wanted state.
const SETTLES_WITHIN: Span = Span::minutes(60);
/// How long nothing may happen after that.
const QUIET: Span = Span::minutes(10);

impl World {
    /// Repairs all faults. Within bounded time the cluster must reach the wanted state and become quiet.
    pub fn settle(&mut self) -> Checked {
        self.letters.clear();
        self.change_leader();
        self.deposed = None;
        for host in self.hosts.values_mut() {
            host.on = true;
            host.connected = true;
            host.deaf = false;
            host.without_agent = false;
        }
        self.calm = true;
        let deadline = self.now + SETTLES_WITHIN;
        let mut quiet_since = self.now;
        let mut index = self.cluster.index();
        while self.now.since(quiet_since) < QUIET {
            if self.now > deadline {
                return Err(format!("I11: not settled within {SETTLES_WITHIN}: {}", self.unrest()));
            }
            // Earlier requests may still be committed, and a service may be rolled back to one.
            self.end_schedules()?;
            let something = self.round()?;
            if something || self.cluster.index() != index {
                index = self.cluster.index();
                quiet_since = self.now;
            }
            let span = if something { Span(200) } else { Span::seconds(2) };
            self.advance(span)?;
        }
        let blocked: BTreeSet<ServiceId> = plan(&self.cluster, self.moment()).blocked.into_keys().collect();
        what_runs_is_wanted(&self.cluster, self.hosts.values(), &blocked)?;
        nothing_is_left_over(&self.cluster)
    }

    /// Removes schedules, because a cluster with schedules is never quiet.
    fn end_schedules(&mut self) -> Checked {
        let has_schedule = |stack: &Stack| stack.services.values().any(|service| service.spec.cron.is_some());
        let stacks = self.cluster.stacks().iter().filter(|(_, stack)| !stack.removing && has_schedule(stack));
        let puts = stacks.map(|(id, stack)| {
            let mut spec = (*stack.spec).clone();
            spec.services.values_mut().for_each(|service| service.cron = None);
            let what = "without schedules".to_owned();
            Command::PutStack {
                id: id.clone(),
                spec: spec.into(),
                files: Vec::new(),
                expect_revision: None,
                what,
                goes_back: false,
            }
            .into()
        });
        let puts: Vec<Proposal> = puts.collect();
        if puts.is_empty() { Ok(()) } else { self.commit(puts) }
    }

    /// Lets everybody do all pending work once; returns whether there was any.
    fn round(&mut self) -> Result<bool, String> {
        let mut something = false;
        let ids: Vec<HostId> = self.hosts.keys().copied().collect();
        for id in &ids {
            self.pass(*id)?;
            let host = self.hosts.get_mut(id).expect("no host goes");
            while host.is_busy() {
                host.finish_one(&mut self.random, 0, self.now);
                something = true;
            }
            for step in host.running_steps() {
                host.end_program(&step, 0, self.now);
                something = true;
            }
            let ailing: Vec<PartId> =
                host.docker.iter().filter(|(_, c)| is_ailing(c.state)).map(|(id, _)| id.clone()).collect();
            for part in ailing {
                host.set_health(&part, Health::Healthy);
                something = true;
            }
            self.pass(*id)?;
            self.speak(*id)?;
        }
        something |= !self.letters.is_empty();
        for letter in std::mem::take(&mut self.letters) {
            self.deliver(letter);
        }
        self.judge_leases();
        self.plan()?;
        something |= !self.in_flight.is_empty();
        for batch in std::mem::take(&mut self.in_flight) {
            self.decide(batch)?;
        }
        Ok(something)
    }

    fn unrest(&self) -> String {
        let plan = plan(&self.cluster, self.moment());
        format!("commands {:?}, blocked {:?}", plan.commands, plan.blocked)
    }
}

fn is_ailing(state: ContainerState) -> bool {
    matches!(state, ContainerState::Running { health: Health::Starting | Health::Unhealthy, .. })
}
