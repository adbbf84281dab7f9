//! The images of a Docker Engine: it pulls those that instances need, lists all, and removes those that wharf needs no
//! more.

use std::{collections::BTreeSet, sync::MutexGuard, time::Duration};

use agent_core::{
    ActionResult,
    images::{Fill, HostImage, ImageId, ReadyImage, Reference, name_and_tag},
};
use bollard::{
    auth::DockerCredentials,
    errors::Error,
    models::{ContainerSummary, ImageSummary},
    query_parameters::{
        CreateImageOptionsBuilder, ListContainersOptionsBuilder, ListImagesOptionsBuilder, PruneBuildOptionsBuilder,
        RemoveImageOptionsBuilder,
    },
};
use common::{assignment::AssignedInstance, part::Part, quantity::Bytes, spec::PullPolicy, time::Span};
use futures::StreamExt;
use rustix::fs::statvfs;
use tracing::debug;

use super::{Docker, OBSERVE_TIMEOUT, failed, is_silence, reason, status};
use crate::runtime::{ContainerRuntime, Removed};

/// How long pulling an image may take.
const PULL_TIMEOUT: Duration = Duration::from_secs(600);
/// How long removing one may take. No image is made ready meanwhile.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(120);
/// How long removing all build caches may take.
const PRUNE_TIMEOUT: Duration = Duration::from_secs(600);
/// How many pulled images are remembered.
const MOST_PULLED: usize = 4096;
/// The name that Docker shows where there is none.
const NO_NAME: &str = "<none>";

impl Docker {
    /// The registry's digest of an image; images that were built or loaded here have none.
    pub(super) async fn digest_of(&self, image: &str) -> Option<String> {
        let inspected = self.client().await.ok()?.inspect_image(image).await.ok()?;
        let first = inspected.repo_digests?.into_iter().next()?;
        let digest = first.split_once('@').map(|(_, digest)| digest.to_owned())?;
        // With containerd's image store every image has a digest, which is its id: only of those that this process has
        // pulled is it known that a registry has them.
        let is_id = inspected.id.as_deref() == Some(&digest);
        (!is_id || self.pulled().contains(&digest)).then_some(digest)
    }

    fn pulled(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.pulled.lock().expect("no panic while it is held")
    }

    fn note_pulled(&self, id: &ImageId) {
        let mut pulled = self.pulled();
        if pulled.len() >= MOST_PULLED {
            pulled.pop_first();
        }
        pulled.insert(id.0.clone());
    }

    /// Fetches the image of a part, if its pull policy asks for that.
    pub(super) async fn ready(&self, instance: &AssignedInstance, part: &Part) -> Result<ReadyImage, ActionResult> {
        let image = instance.image_of(part);
        // The container that holds the network is made of the main container's image.
        let policy = instance.spec.container_of(part).unwrap_or(&instance.spec.container).pull;
        match self.look_up(image).await.map_err(failed)? {
            Some((id, _)) if policy != PullPolicy::Always => return Ok(ReadyImage::found(id)),
            None if policy == PullPolicy::Never => {
                let why = format!("image {image} is not on the host, and its pull policy is never");
                return Err(ActionResult::Impossible(why));
            }
            Some(_) | None => {}
        }
        let before = self.host_images().await;
        self.pull_in_time(instance, part, image).await?;
        let pulled = self.look_up(image).await.map_err(failed)?;
        let (id, references) = pulled.ok_or_else(|| {
            ActionResult::Failed(format!("image {image} was removed from the host as soon as it was pulled"))
        })?;
        self.note_pulled(&id);
        match before {
            Ok(before) => Ok(ReadyImage::pulled(&Reference::of(image), id, references, &before)),
            Err(error) => {
                debug!(%error, image, "whether the image was on the host before is not known: it counts as not pulled");
                Ok(ReadyImage::found(id))
            }
        }
    }

    /// An image on the host and all references to it.
    async fn look_up(&self, image: &str) -> Result<Option<(ImageId, BTreeSet<Reference>)>, Error> {
        match self.client().await?.inspect_image(image).await {
            Ok(found) => {
                let shown = references(found.repo_tags.unwrap_or_default(), found.repo_digests.unwrap_or_default());
                Ok(Some((ImageId(found.id.unwrap_or_default()), shown)))
            }
            Err(error) if status(&error) == Some(404) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn pull_in_time(&self, instance: &AssignedInstance, part: &Part, image: &str) -> Result<(), ActionResult> {
        match tokio::time::timeout(PULL_TIMEOUT, self.pull(instance, part, image)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) if is_silence(&error) => Err(failed(error)),
            Ok(Err(error)) => {
                let missing = status(&error) == Some(404);
                let why = format!("image {image}: {}", reason(error));
                Err(if missing { ActionResult::Impossible(why) } else { ActionResult::Failed(why) })
            }
            Err(_) => Err(ActionResult::Failed(format!("image {image}: not pulled within {PULL_TIMEOUT:?}"))),
        }
    }

    async fn pull(&self, instance: &AssignedInstance, part: &Part, image: &str) -> Result<(), Error> {
        let credentials = instance.credentials_for(image).map(|credentials| DockerCredentials {
            username: Some(credentials.username.clone()),
            password: Some(credentials.password.expose().clone()),
            serveraddress: Some(credentials.registry.clone()),
            ..DockerCredentials::default()
        });
        let (name, tag) = name_and_tag(image);
        let mut options = CreateImageOptionsBuilder::new().from_image(name).tag(tag);
        let platform = instance.spec.container_of(part).and_then(|container| container.platform.as_deref());
        if let Some(platform) = platform {
            options = options.platform(platform);
        }
        let options = options.build();
        let client = self.client().await?;
        let mut progress = std::pin::pin!(client.create_image(Some(options), None, credentials));
        while let Some(step) = progress.next().await {
            step?;
        }
        Ok(())
    }

    /// All images on the host, whosever they are.
    pub(super) async fn host_images(&self) -> Result<Vec<HostImage>, Error> {
        let client = self.client().await?;
        let images = client.list_images(Some(ListImagesOptionsBuilder::new().all(true).digests(true).build()));
        let containers = client.list_containers(Some(ListContainersOptionsBuilder::new().all(true).build()));
        let listing = async { tokio::try_join!(images, containers) };
        let listed = tokio::time::timeout(OBSERVE_TIMEOUT, listing).await;
        let (images, containers) = listed.map_err(|_| Error::RequestTimeoutError)??;
        Ok(shown(images, &containers))
    }

    /// Removes a reference, and the image with its last one. Docker itself keeps what a container uses.
    pub(super) async fn try_remove_image(&self, name: &str) -> Result<Removed, Error> {
        // Not the images that it was built on: wharf did not pull those.
        let options = RemoveImageOptionsBuilder::new().force(false).noprune(true).build();
        let client = self.client().await?.with_timeout(REMOVE_TIMEOUT);
        match client.remove_image(name, Some(options), None).await {
            Ok(_) => Ok(Removed::Gone),
            Err(error) if status(&error) == Some(404) => Ok(Removed::Gone),
            Err(error) if status(&error) == Some(409) => Ok(Removed::Kept),
            Err(error) => Err(error),
        }
    }

    /// Removes the build caches that were not used for a time; returns how large they were.
    pub(super) async fn try_prune(&self, unused_for: Span) -> Result<Bytes, Error> {
        let filters = [("until", vec![format!("{}s", unused_for.duration().as_secs())])].into();
        let options = PruneBuildOptionsBuilder::new().filters(&filters).build();
        let client = self.client().await?.with_timeout(PRUNE_TIMEOUT);
        let freed = client.prune_build(Some(options)).await?.space_reclaimed;
        Ok(Bytes(freed.unwrap_or(0).max(0).unsigned_abs()))
    }

    /// The fill of the disk of images and containers; none if Docker does not say where that is.
    pub(super) async fn fill(&self) -> Option<Fill> {
        if self.root().is_none()
            && let Err(why) = self.facts().await
        {
            debug!(why, "Docker does not say where it keeps images");
        }
        let system = statvfs(&self.root()?).ok()?;
        let bytes = |blocks: u64| Bytes(blocks.saturating_mul(system.f_frsize));
        let used = system.f_blocks.saturating_sub(system.f_bfree);
        Some(Fill { used: bytes(used), available: bytes(system.f_bavail) })
    }
}

fn references(tags: Vec<String>, digests: Vec<String>) -> BTreeSet<Reference> {
    let named = tags.into_iter().chain(digests).filter(|text| !text.contains(NO_NAME));
    named.map(|text| Reference::of(&text)).collect()
}

/// The images as they are decided about. Containers name their image by its id, or as it was called when they were made.
fn shown(images: Vec<ImageSummary>, containers: &[ContainerSummary]) -> Vec<HostImage> {
    let parents: BTreeSet<String> = images.iter().map(|image| image.parent_id.clone()).collect();
    let used: BTreeSet<&String> = containers.iter().filter_map(|container| container.image_id.as_ref()).collect();
    let called: BTreeSet<Reference> =
        containers.iter().filter_map(|container| container.image.as_deref()).map(Reference::of).collect();
    let image = |summary: ImageSummary| {
        let references = references(summary.repo_tags, summary.repo_digests);
        let is_used = used.contains(&summary.id) || parents.contains(&summary.id) || !called.is_disjoint(&references);
        HostImage { id: ImageId(summary.id), references, size: Bytes(summary.size.max(0).unsigned_abs()), is_used }
    };
    images.into_iter().map(image).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(id: &str, tags: &[&str], digests: &[&str]) -> ImageSummary {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        ImageSummary {
            id: id.into(),
            repo_tags: texts(tags),
            repo_digests: texts(digests),
            size: 7,
            ..ImageSummary::default()
        }
    }

    #[test]
    fn an_image_is_used_by_containers_by_its_id_or_its_name_and_by_what_was_built_on_it() {
        let images = vec![
            summary("a", &["web:1"], &["web@sha256:a"]),
            summary("b", &["web:2"], &[]),
            summary("c", &["base:1"], &[]),
            ImageSummary { parent_id: "c".into(), ..summary("d", &["built:1"], &[]) },
            summary("e", &["<none>:<none>"], &["<none>@<none>"]),
        ];
        let by_id = ContainerSummary { image_id: Some("a".into()), ..ContainerSummary::default() };
        let by_name = ContainerSummary { image: Some("docker.io/library/web:2".into()), ..ContainerSummary::default() };
        let shown = shown(images, &[by_id, by_name]);
        let used: Vec<_> = shown.iter().map(|image| (image.id.0.as_str(), image.is_used)).collect();
        assert_eq!(used, [("a", true), ("b", true), ("c", true), ("d", false), ("e", false)]);
        assert_eq!(shown[0].references, [Reference::of("web:1"), Reference::of("web@sha256:a")].into());
        assert_eq!((shown[4].references.len(), shown[4].size), (0, Bytes(7)));
    }
}
