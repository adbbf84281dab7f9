//! What an agent remembers of the images on its host: which ones it pulled, and which ones its services used last. It is
//! kept on disk, for Docker knows neither.

use std::collections::{BTreeMap, BTreeSet};

use common::{
    assignment::Assignment,
    id::ServiceId,
    part::{Part, PartId},
    time::{Span, Timestamp},
};
use serde::{Deserialize, Serialize};

use super::{HostImage, ImageId, Reference};

/// How many images the host keeps of each part of a service: that of the last revision and that of the one before.
const KEPT: usize = 2;
/// How long the images of a service are kept after the service has left the host.
const KEPT_AFTER_LEAVING: Span = Span::minutes(7 * 24 * 60);
/// How many parts of services are remembered. Those that the host ran last are.
const MOST_PARTS: usize = 4096;
/// How exact the remembered times are: each change of one is written to disk.
const EXACT_TO: Span = Span::minutes(60);

/// The record of the images on a host. An image that is not in it is not wharf's.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ImageRecord {
    pulled: BTreeMap<ImageId, Pulled>,
    uses: BTreeMap<ServicePart, Uses>,
}

/// An image that wharf pulled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pulled {
    /// The references that came with wharf's pulls.
    pub references: BTreeSet<Reference>,
    /// When a container last used it, or was about to.
    pub last_used: Timestamp,
}

/// The images that a part of a service used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Uses {
    /// The last [`KEPT`] ones, the newest at the end.
    images: Vec<ImageId>,
    /// When the host last had the part to run.
    last_assigned: Timestamp,
}

/// A part of all instances of a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ServicePart {
    /// The service.
    pub service: ServiceId,
    /// The part.
    pub part: Part,
}

impl From<&PartId> for ServicePart {
    fn from(id: &PartId) -> ServicePart {
        ServicePart { service: id.instance.service().clone(), part: id.part.clone() }
    }
}

/// The parts of services and the images of an assignment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Assigned {
    /// The parts.
    pub parts: BTreeSet<ServicePart>,
    /// Their images.
    pub references: BTreeSet<Reference>,
}

impl Assigned {
    /// Those of an assignment.
    pub fn of(assignment: &Assignment) -> Assigned {
        let mut assigned = Assigned::default();
        for instance in &assignment.instances {
            for part in instance.parts() {
                assigned.references.insert(Reference::of(instance.image_of(&part)));
                assigned.parts.insert(ServicePart { service: instance.id.service().clone(), part });
            }
        }
        assigned
    }
}

/// An image on the host of which a container is about to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadyImage {
    /// The image.
    pub id: ImageId,
    /// Whether wharf's pull brought the image to the host.
    is_new: bool,
    /// The references that wharf's pull added.
    added: BTreeSet<Reference>,
}

impl ReadyImage {
    /// An image that was on the host.
    pub fn found(id: ImageId) -> ReadyImage {
        ReadyImage { id, is_new: false, added: BTreeSet::new() }
    }

    /// An image after wharf has pulled a reference, with the references that it has now, and the images that were on the
    /// host before. References to other repositories are somebody else's, who came at the same time.
    pub fn pulled(
        reference: &Reference,
        id: ImageId,
        references: BTreeSet<Reference>,
        before: &[HostImage],
    ) -> ReadyImage {
        let earlier = before.iter().find(|image| image.id == id);
        let is_added = |new: &Reference| {
            new.repository() == reference.repository() && earlier.is_none_or(|image| !image.references.contains(new))
        };
        ReadyImage { is_new: earlier.is_none(), added: references.into_iter().filter(is_added).collect(), id }
    }

    /// Whether wharf's pull brought the image to the host.
    pub fn is_new(&self) -> bool {
        self.is_new
    }
}

impl ImageRecord {
    /// The record of an image that wharf pulled.
    pub fn pulled(&self, id: &ImageId) -> Option<&Pulled> {
        self.pulled.get(id)
    }

    /// Whether an image is one of the last that some part of a service used.
    pub fn is_kept(&self, id: &ImageId) -> bool {
        self.uses.values().any(|uses| uses.images.contains(id))
    }

    /// Notes an image of which a container of a part is about to be made. An image that was on the host before wharf
    /// pulled it stays somebody else's, and is not remembered.
    pub fn note(&mut self, part: ServicePart, ready: ReadyImage, now: Timestamp) {
        let ReadyImage { id, is_new, added } = ready;
        if is_new {
            self.pulled.insert(id.clone(), Pulled { references: added, last_used: now });
        } else {
            let Some(pulled) = self.pulled.get_mut(&id) else { return };
            pulled.references.extend(added);
            touch(&mut pulled.last_used, now);
        }
        let uses = self.uses.entry(part).or_insert_with(|| Uses { images: Vec::new(), last_assigned: now });
        uses.images.retain(|other| *other != id);
        uses.images.push(id);
        uses.images.drain(..uses.images.len().saturating_sub(KEPT));
        touch(&mut uses.last_assigned, now);
    }

    /// Takes in all images on the host, and the parts that it has to run. What is not on the host any more is forgotten:
    /// if it comes back without wharf, it is somebody else's.
    pub fn observe(&mut self, images: &[HostImage], assigned: &Assigned, now: Timestamp) {
        let on_host: BTreeMap<&ImageId, &HostImage> = images.iter().map(|image| (&image.id, image)).collect();
        self.pulled.retain(|id, pulled| {
            let Some(image) = on_host.get(id) else { return false };
            pulled.references.retain(|reference| image.references.contains(reference));
            if image.is_used {
                touch(&mut pulled.last_used, now);
            }
            true
        });
        for (part, uses) in &mut self.uses {
            if assigned.parts.contains(part) {
                touch(&mut uses.last_assigned, now);
            }
        }
        self.uses.retain(|_, uses| now.since(uses.last_assigned) < KEPT_AFTER_LEAVING);
        self.forget_the_oldest(MOST_PARTS);
    }

    /// Forgets the parts that the host has not had to run for the longest time, until so many are left.
    fn forget_the_oldest(&mut self, most: usize) {
        while self.uses.len() > most {
            let oldest = self.uses.iter().min_by_key(|(_, uses)| uses.last_assigned).map(|(part, _)| part.clone());
            self.uses.remove(&oldest.expect("there are more than none"));
        }
    }
}

/// Moves a time to now, if it is not close already. A clock that was set back must not keep it in the future.
fn touch(time: &mut Timestamp, now: Timestamp) {
    if *time > now || now.since(*time) >= EXACT_TO {
        *time = now;
    }
}
