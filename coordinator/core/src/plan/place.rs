//! Which host takes an instance: the spread, then the emptiest, then the lowest id.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    sync::Arc,
};

use common::{
    id::HostId,
    spec::{Constraint, Mode, Resources, ServiceSpec},
    time::Timestamp,
};

use super::{
    Blocked,
    hosts::{Booked, HostTable, Row},
    scale::Subject,
    unfit::Refusal,
};
use crate::state::{Candidate, Instance};

/// What is to be placed, and where it may go at all.
pub(super) struct Seat<'a> {
    pub(super) incarnation: u64,
    pub(super) only: Option<Only>,
    /// The host of the instance that this one succeeds: that one no longer counts there.
    pub(super) leaving: Option<HostId>,
    /// What it is made from.
    pub(super) spec: &'a Arc<ServiceSpec>,
}

/// The one host that an instance may go to.
#[derive(Clone, Copy)]
pub(super) enum Only {
    /// The host of that number: the slot is this host's.
    Numbered(u32),
    /// The host that holds its data.
    Home(HostId),
}

/// A host that takes an instance, and what it gets there.
pub(super) struct Choice {
    pub(super) host: HostId,
    pub(super) booked: Booked,
}

/// Places the instances of one service.
pub(super) struct Placer<'a> {
    hosts: &'a mut HostTable,
    subject: &'a Subject<'a>,
    /// What an instance is made from.
    spec: &'a Arc<ServiceSpec>,
    /// What it reserves.
    need: Resources,
    /// How many instances of the service each host has, by row; counted when the first one is placed.
    own: Vec<u32>,
    /// The rows of the hosts by their numbers, for a global service.
    by_number: BTreeMap<u32, usize>,
    /// Whether it has none anywhere.
    is_first: bool,
    /// What other services do not want beside them.
    shunned: Vec<Constraint>,
    /// What the spec asks of a host beside its constraints.
    implied: Vec<Constraint>,
    ranking: Option<Ranking>,
}

/// The hosts, best first, for instances that may go to any. A placement changes one row: the others need not be
/// looked at again.
struct Ranking {
    heap: BinaryHeap<Ranked>,
    refusals: Vec<(Refusal, usize)>,
}

/// A row's rank and index, and the version of the row that it was ranked at; the best is the greatest.
type Ranked = Reverse<(Rank, usize, u32)>;

/// What is compared to choose a host, the least being best: whether it lately failed to prepare what is placed, how
/// many preferences it does not meet, how many of the service are on it, and how full it would be. Rows are in the order of ids, which decides between equals.
type Rank = (bool, usize, u32, u64);

impl<'a> Placer<'a> {
    pub(super) fn new(hosts: &'a mut HostTable, subject: &'a Subject<'a>) -> Placer<'a> {
        let spec = &subject.service.spec;
        Placer {
            hosts,
            subject,
            spec,
            need: spec.reservations(),
            own: Vec::new(),
            by_number: BTreeMap::new(),
            is_first: true,
            shunned: Vec::new(),
            implied: spec.implied_constraints(),
            ranking: None,
        }
    }

    fn count_own_once(&mut self) {
        if !self.own.is_empty() {
            return;
        }
        self.shunned = self.subject.cluster.shunned_by(self.subject.id);
        self.own = vec![0; self.hosts.rows().len()];
        if self.spec.mode == Mode::Global {
            self.by_number =
                self.hosts.rows().iter().enumerate().map(|(index, row)| (row.host.number, index)).collect();
        }
        for (_, instance) in self.subject.instances.iter().filter(|(_, instance)| instance.fills_slot()) {
            if let Some(index) = self.hosts.index_of(instance.host) {
                self.own[index] += 1;
            }
            self.is_first = false;
        }
    }

    /// Picks a host and takes what the instance needs from it, or says why none fits.
    pub(super) fn choose(&mut self, seat: &Seat<'a>) -> Result<Choice, Vec<Blocked>> {
        // The ranking is of the hosts for what is usual.
        if Arc::ptr_eq(self.spec, seat.spec) {
            return self.choose_for_spec(seat, true);
        }
        let usual = (self.spec, self.need, std::mem::take(&mut self.implied));
        (self.spec, self.need, self.implied) = (seat.spec, seat.spec.reservations(), seat.spec.implied_constraints());
        let chosen = self.choose_for_spec(seat, false);
        (self.spec, self.need, self.implied) = usual;
        chosen
    }

    fn choose_for_spec(&mut self, seat: &Seat<'_>, may_rank: bool) -> Result<Choice, Vec<Blocked>> {
        self.count_own_once();
        // Where the spread counts, or what else is there, a placement changes the rank of many.
        let mut conditions = self.spec.constraints.iter().chain(&self.spec.prefer);
        let is_alone = self.spec.spread.is_empty() && !conditions.any(Constraint::asks_for_neighbours);
        let chosen = if may_rank && seat.only.is_none() && seat.leaving.is_none() && is_alone {
            self.best_ranked(seat.incarnation)
        } else {
            self.best_scanned(seat)
        };
        let (index, booked) = chosen.map_err(|refusals| self.hosts.unfit(self.spec, refusals))?;
        self.hosts.take(index, self.subject.id, self.spec, &booked);
        self.own[index] += 1;
        self.is_first = false;
        Ok(Choice { host: self.hosts.rows()[index].id, booked })
    }

    fn best_ranked(&mut self, incarnation: u64) -> Result<(usize, Booked), Vec<(Refusal, usize)>> {
        let mut ranking = self.ranking.take().unwrap_or_else(|| self.rank_all());
        let mut best = None;
        while let Some(Reverse((_, index, version))) = ranking.heap.pop() {
            let row = &self.hosts.rows()[index];
            if row.version != version {
                match self.rank(index) {
                    Ok(ranked) => ranking.heap.push(ranked),
                    Err(refusal) => ranking.refusals.push((refusal, index)),
                }
                continue;
            }
            match row.book(self.spec, incarnation) {
                Ok(booked) => {
                    // It stays in the ranking, and is ranked anew when its turn comes.
                    ranking.heap.push(Reverse((self.rank_of(index, None), index, version)));
                    best = Some((index, booked));
                    break;
                }
                Err(refusal) => ranking.refusals.push((refusal, index)),
            }
        }
        let refusals = if best.is_none() { ranking.refusals.clone() } else { Vec::new() };
        self.ranking = Some(ranking);
        best.ok_or(refusals)
    }

    fn rank_all(&self) -> Ranking {
        let (mut ranked, mut refusals) = (Vec::with_capacity(self.own.len()), Vec::new());
        for index in 0..self.own.len() {
            match self.rank(index) {
                Ok(row) => ranked.push(row),
                Err(refusal) => refusals.push((refusal, index)),
            }
        }
        Ranking { heap: BinaryHeap::from(ranked), refusals }
    }

    fn rank(&self, index: usize) -> Result<Ranked, Refusal> {
        match self.refusal(index) {
            None => Ok(Reverse((self.rank_of(index, None), index, self.hosts.rows()[index].version))),
            Some(refusal) => Err(refusal),
        }
    }

    fn rank_of(&self, index: usize, leaving: Option<HostId>) -> Rank {
        let row = &self.hosts.rows()[index];
        let unmet = if self.spec.prefer.is_empty() {
            0
        } else {
            let candidate = self.candidate(row);
            self.spec.prefer.iter().filter(|wish| !candidate.meets(wish)).count()
        };
        (self.is_unfit(row), unmet, self.staying(index, row, leaving), row.share(self.need))
    }

    /// Whether a host lately failed to prepare one of the images: another one is tried first.
    fn is_unfit(&self, row: &Row) -> bool {
        let unfit = |image: &str| row.host.could_not_prepare(image, self.subject.at.now);
        !row.host.unprepared.is_empty() && self.spec.containers().any(|(_, container)| unfit(&container.image))
    }

    /// Whether a host other than the one on which an instance is stranded would take another in its place.
    pub(super) fn fits_elsewhere(&mut self, stranded: &Instance) -> bool {
        self.count_own_once();
        let takes = |(index, row): (usize, &Row)| {
            row.id != stranded.host
                && !self.is_unfit(row)
                && self.refusal(index).is_none()
                && row.book(self.spec, 0).is_ok()
        };
        self.hosts.rows().iter().enumerate().any(takes)
    }

    /// The first filter that keeps an instance away from a host.
    fn refusal(&self, index: usize) -> Option<Refusal> {
        let row = &self.hosts.rows()[index];
        let is_full = |most: &u32| self.own[index] >= *most;
        row.refusal_of_all(self.subject.at.now)
            .or_else(|| self.unmet(row).map(|constraint| Refusal::Constraint(constraint.to_string())))
            .or_else(|| row.lacks(self.need))
            .or_else(|| self.spec.max_per_host.filter(is_full).map(Refusal::Full))
    }

    /// A constraint that a host does not meet.
    fn unmet(&self, row: &Row) -> Option<&Constraint> {
        let candidate = self.candidate(row);
        let further = self.shunned.iter().chain(&self.implied);
        self.spec.constraints.iter().chain(further).find(|constraint| !candidate.meets(constraint))
    }

    fn candidate<'b>(&'b self, row: &'b Row) -> Candidate<'b> {
        let (cluster, service, placed) = (self.subject.cluster, self.subject.id, &row.placed);
        let (is_first, own_counts) = (self.is_first, self.spec.mode != Mode::Global);
        Candidate { cluster, service, id: row.id, host: &row.host, placed, is_first, own_counts }
    }

    /// Whether an instance would be better off on another host: by the spread, by the preferences, or because
    /// fewer of the service are there. How full hosts are does not move anything.
    pub(super) fn would_be_better_off(&mut self, instance: &Instance) -> bool {
        self.count_own_once();
        let Some(present) = self.hosts.index_of(instance.host) else { return false };
        let leaving = Some(instance.host);
        let seat = Seat { incarnation: 0, only: None, leaving, spec: self.spec };
        let Ok((best, _)) = self.best_scanned(&seat) else { return false };
        let levels = self.levels(leaving);
        let [best, present] = [best, present].map(|index| {
            let (_, branches, (_, unmet, own, _)) = self.score(index, leaving, &levels);
            (branches, unmet, own)
        });
        best < present
    }

    fn levels(&self, leaving: Option<HostId>) -> Vec<BTreeMap<&str, u32>> {
        self.spec.spread.iter().map(|label| self.by_label(label, leaving)).collect()
    }

    /// What decides between hosts, the least being best: whether it failed to prepare this lately, how many of the
    /// service are on each branch of the spread, then the rank.
    fn score(&self, index: usize, leaving: Option<HostId>, levels: &[BTreeMap<&str, u32>]) -> (bool, Vec<u32>, Rank) {
        let row = &self.hosts.rows()[index];
        let on_branch = |(label, counts): (&String, &BTreeMap<&str, u32>)| counts[row.label(label)];
        let branches = self.spec.spread.iter().zip(levels).map(on_branch).collect();
        (self.is_unfit(row), branches, self.rank_of(index, leaving))
    }

    /// Looks at every host.
    fn best_scanned(&self, seat: &Seat<'_>) -> Result<(usize, Booked), Vec<(Refusal, usize)>> {
        let levels = self.levels(seat.leaving);
        let mut refusals: Vec<(Refusal, usize)> = Vec::new();
        let mut best: Option<((bool, Vec<u32>, Rank), usize, Booked)> = None;
        // Of ten thousand hosts a slot of a global service belongs to one.
        let indices = match seat.only {
            Some(Only::Numbered(number)) => self.by_number.get(&number).map_or(0..0, |index| *index..*index + 1),
            Some(Only::Home(_)) | None => 0..self.hosts.rows().len(),
        };
        for index in indices {
            let row = &self.hosts.rows()[index];
            let refusal = match seat.only {
                Some(Only::Home(home)) if home != row.id => Some(Refusal::NotHome),
                _ => self.refusal(index),
            };
            match refusal.map_or_else(|| row.book(self.spec, seat.incarnation), Err) {
                Ok(booked) => {
                    let score = self.score(index, seat.leaving, &levels);
                    if best.as_ref().is_none_or(|(least, ..)| score < *least) {
                        best = Some((score, index, booked));
                    }
                }
                Err(refusal) => refusals.push((refusal, index)),
            }
        }
        best.map(|(_, index, booked)| (index, booked)).ok_or(refusals)
    }

    /// How many instances of the service a host has, without one that leaves.
    fn staying(&self, index: usize, row: &Row, leaving: Option<HostId>) -> u32 {
        self.own[index].saturating_sub(u32::from(leaving == Some(row.id)))
    }

    /// How many instances of the service there are under each value of a label; hosts without it form a
    /// branch of their own.
    fn by_label(&self, label: &str, leaving: Option<HostId>) -> BTreeMap<&str, u32> {
        let mut counts = BTreeMap::new();
        for (index, row) in self.hosts.rows().iter().enumerate() {
            *counts.entry(row.label(label)).or_default() += self.staying(index, row, leaving);
        }
        counts
    }

    /// Whether a host is emptied.
    pub(super) fn is_emptied(&self, host: HostId) -> bool {
        self.hosts.emptied().contains(&host)
    }

    /// When a host that comes and goes may get something again.
    pub(super) fn calm_at(&self) -> Option<Timestamp> {
        self.hosts.calm_at(self.subject.at.now)
    }

    /// Why nothing is replaced at all, if so many hosts are away that the fault is likely elsewhere.
    pub(super) fn brake(&self) -> Option<Blocked> {
        self.hosts.brake()
    }
}

#[cfg(test)]
mod tests;
