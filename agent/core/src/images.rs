//! Which images leave a host whose Docker has little room left, and when its build caches do.
//!
//! An image goes only if wharf pulled it, all references to it came with wharf's pulls, nothing uses it, and no service of
//! this host is likely to go back to it. The hard choice is whose an image is, for Docker does not say who pulled it. So
//! the agent remembers what its own pulls added to the host ([`ImageRecord`]); an image that it is not sure of stays.

mod record;
mod reference;

use std::{cmp::Reverse, collections::BTreeSet};

use common::{
    quantity::Bytes,
    time::{Span, Timestamp},
};

pub use record::{Assigned, ImageRecord, Pulled, ReadyImage, ServicePart};
pub use reference::{ImageId, Reference, name_and_tag};

/// Above this share of the disk, in percent, the agent begins to clean up. Doctor warns at 95, and from 98 on the host may
/// get nothing new.
pub const BEGIN_ABOVE: u64 = 85;
/// At this share it has cleaned up enough: far enough below the other that the next pull does not begin it again.
pub const ENOUGH_AT: u64 = 70;
/// How long a build cache must not have been used before it goes.
pub const UNUSED_CACHE: Span = Span::minutes(24 * 60);

/// An image on the host, as Docker shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostImage {
    /// Its id.
    pub id: ImageId,
    /// All references to it, wharf's own and others.
    pub references: BTreeSet<Reference>,
    /// Its size, with the layers that it shares with others.
    pub size: Bytes,
    /// Whether a container was made of it, running or not and whosever, or another image was built on it.
    pub is_used: bool,
}

/// How full a file system is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fill {
    /// What is used.
    pub used: Bytes,
    /// What may still be used, without what the system holds back.
    pub available: Bytes,
}

impl Fill {
    /// Whether more than a share in percent is used.
    fn is_above(self, percent: u64) -> bool {
        let (used, available) = (u128::from(self.used.0), u128::from(self.available.0));
        used * 100 > (used + available) * u128::from(percent)
    }
}

/// All that a step of a clean-up depends on.
#[derive(Debug, Clone, Copy)]
pub struct Snapshot<'a> {
    /// All images on the host.
    pub images: &'a [HostImage],
    /// The agent's record.
    pub record: &'a ImageRecord,
    /// What the host has to run.
    pub assigned: &'a Assigned,
    /// The file system of Docker's root.
    pub fill: Fill,
    /// The images that this clean-up has tried to remove; none if it has not begun.
    pub tried: Option<&'a BTreeSet<ImageId>>,
}

/// The next step of a clean-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// There is room enough, or nothing more may go.
    Rest,
    /// The build caches go first: a build makes them again from what the host has.
    BuildCaches,
    /// An image goes.
    Image(Removal),
}

/// An image that goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// The image.
    pub id: ImageId,
    /// What Docker is asked to remove, in this order: all references, or the id of an image that has none.
    pub names: Vec<String>,
    /// The size of the image, with the layers that it shares with others.
    pub size: Bytes,
}

/// Decides the next step. A clean-up that has begun goes on until [`ENOUGH_AT`].
pub fn next_step(snapshot: &Snapshot<'_>) -> Step {
    match snapshot.tried {
        None if snapshot.fill.is_above(BEGIN_ABOVE) => Step::BuildCaches,
        Some(tried) if snapshot.fill.is_above(ENOUGH_AT) => {
            let mut removable = removable(snapshot).into_iter();
            removable.find(|removal| !tried.contains(&removal.id)).map_or(Step::Rest, Step::Image)
        }
        None | Some(_) => Step::Rest,
    }
}

/// The images that may go, first the one whose last use is the longest ago.
pub fn removable(snapshot: &Snapshot<'_>) -> Vec<Removal> {
    let may_go = |image: &&HostImage| !image.is_used && !is_assigned(snapshot, image);
    let owned = |image: &HostImage| owned(snapshot.record, image);
    let mut found: Vec<_> = snapshot.images.iter().filter(may_go).filter_map(owned).collect();
    found.sort_by(|(a, first), (b, second)| {
        (a, Reverse(first.size), &first.id).cmp(&(b, Reverse(second.size), &second.id))
    });
    found.into_iter().map(|(_, removal)| removal).collect()
}

fn is_assigned(snapshot: &Snapshot<'_>, image: &HostImage) -> bool {
    !image.references.is_disjoint(&snapshot.assigned.references)
}

/// The removal of an image that wharf alone has pulled and no service keeps, and when it was used last. To remove wharf's
/// references alone would free nothing.
fn owned(record: &ImageRecord, image: &HostImage) -> Option<(Timestamp, Removal)> {
    let pulled = record.pulled(&image.id)?;
    if record.is_kept(&image.id) || !image.references.is_subset(&pulled.references) {
        return None;
    }
    // Docker removes the digests of a repository with its last tag, so tags come first.
    let mut references: Vec<&Reference> = image.references.iter().collect();
    references.sort_by_key(|reference| reference.is_digest());
    let mut names: Vec<String> = references.into_iter().map(|reference| reference.as_str().to_owned()).collect();
    if names.is_empty() {
        names.push(image.id.0.clone());
    }
    Some((pulled.last_used, Removal { id: image.id.clone(), names, size: image.size }))
}

#[cfg(test)]
mod tests;
