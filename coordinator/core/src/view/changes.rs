//! How two specs of a stack differ, service by service.

use std::{collections::BTreeSet, sync::Arc};

use common::{
    api::{ChangeKind, RevisionView, ServiceChange},
    name::Name,
    spec::{ServiceSpec, StackSpec},
};

use super::shape::{Shape, differences};
use crate::state::{Revision, Stack};

/// The revisions of a stack that are kept, the newest first.
pub fn revisions(stack: &Stack) -> Vec<RevisionView> {
    let none = StackSpec::default();
    let earlier = std::iter::once(&none).chain(stack.history.iter().map(|revision| &*revision.spec));
    let view = |(revision, before): (&Arc<Revision>, &StackSpec)| RevisionView {
        revision: revision.revision,
        at: revision.at,
        by: revision.by.clone(),
        what: revision.what.clone(),
        changes: changes(before, &revision.spec).filter(|change| change.kind != ChangeKind::Unchanged).collect(),
        spec: (*revision.spec).clone(),
        served: revision.served,
    };
    let mut views: Vec<RevisionView> = stack.history.iter().zip(earlier).map(view).collect();
    views.reverse();
    views
}

/// One entry for each service of either spec, in the order of their names.
pub(super) fn changes<'a>(before: &'a StackSpec, after: &'a StackSpec) -> impl Iterator<Item = ServiceChange> + 'a {
    let names: BTreeSet<&Name> = before.services.keys().chain(after.services.keys()).collect();
    names.into_iter().map(|name| change(name, before.services.get(name), after.services.get(name)))
}

fn change(name: &Name, before: Option<&ServiceSpec>, after: Option<&ServiceSpec>) -> ServiceChange {
    let kind = match (before, after) {
        (None, Some(_)) => ChangeKind::Create,
        (Some(_), None) => ChangeKind::Remove,
        (Some(before), Some(after)) if before == after => ChangeKind::Unchanged,
        (Some(before), Some(after)) if before.same_instances(after) => ChangeKind::Scale,
        (Some(_), Some(_)) => ChangeKind::Update,
        (None, None) => ChangeKind::Unchanged,
    };
    let differences = match kind {
        // All of it goes: there is nothing to compare.
        ChangeKind::Remove | ChangeKind::Unchanged => Vec::new(),
        ChangeKind::Create | ChangeKind::Update | ChangeKind::Scale => {
            let shape = |spec: Option<&ServiceSpec>| spec.map(Shape::of).unwrap_or_default();
            differences(&shape(before), &shape(after))
        }
    };
    ServiceChange { service: name.clone(), kind, differences }
}
