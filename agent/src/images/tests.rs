use std::path::Path;

use agent_core::images::{HostImage, Reference};
use common::id::{ClusterId, HostId, InstanceId};

use super::*;
use crate::runtime::fake::Fake;

const CLUSTER: ClusterId = ClusterId([1; 10]);
const HOST: HostId = HostId([2; 10]);

fn part() -> ServicePart {
    let instance: InstanceId = "default/shop/web/1.1".parse().expect("an id");
    ServicePart::from(&instance.main())
}

/// An image of 10 bytes with one reference.
fn image(reference: &str) -> HostImage {
    let references = [Reference::of(reference)].into();
    HostImage { id: ImageId(format!("id of {reference}")), references, size: Bytes(10), is_used: false }
}

fn pulled(reference: &str) -> ReadyImage {
    let image = image(reference);
    ReadyImage::pulled(&Reference::of(reference), image.id, image.references, &[])
}

fn keeper(state: &Path, runtime: &Arc<Fake>, generation: u64) -> (Images, ImageKeeper) {
    let assignment = Assignment { generation, ..Assignment::nothing(CLUSTER, HOST) };
    ImageKeeper::new(runtime.clone(), StoredRecord::load(state, CLUSTER, HOST), watch::channel(assignment).1)
}

/// A host whose disk is nine tenths full. Somebody's own image is on it, and four that wharf has pulled.
async fn full_host(state: &Path) -> Arc<Fake> {
    let runtime = Arc::new(Fake::default());
    runtime.put_disk(Fill { used: Bytes(90), available: Bytes(10) });
    runtime.put_image(image("mine:1"));
    let mut stored = StoredRecord::load(state, CLUSTER, HOST);
    for reference in ["web:1", "web:2", "web:3", "web:4"] {
        runtime.put_image(image(reference));
        stored.change(|record| record.note(part(), pulled(reference), now())).await;
    }
    runtime
}

async fn on_host(runtime: &Fake) -> Vec<String> {
    let images = runtime.images().await.expect("it answers");
    images.into_iter().flat_map(|image| image.references).map(|reference| reference.to_string()).collect()
}

#[tokio::test]
async fn a_full_disk_is_cleaned_up_and_all_that_must_stay_stays() {
    let state = tempfile::tempdir().expect("a folder");
    let runtime = full_host(state.path()).await;
    let (_images, mut keeper) = keeper(state.path(), &runtime, 1);
    keeper.look().await;
    assert_eq!(on_host(&runtime).await, ["mine:1", "web:3", "web:4"], "which are 70 % of the disk");
    keeper.look().await;
    assert_eq!(on_host(&runtime).await, ["mine:1", "web:3", "web:4"]);
}

#[tokio::test]
async fn a_disk_with_room_a_host_without_assignment_and_a_lost_record_remove_nothing() {
    let state = tempfile::tempdir().expect("a folder");
    let runtime = full_host(state.path()).await;
    let all = on_host(&runtime).await;
    keeper(state.path(), &runtime, 0).1.look().await;
    assert_eq!(on_host(&runtime).await, all, "the host does not know what it needs");
    runtime.put_disk(Fill { used: Bytes(85), available: Bytes(15) });
    keeper(state.path(), &runtime, 1).1.look().await;
    assert_eq!(on_host(&runtime).await, all, "there is room");
    runtime.put_disk(Fill { used: Bytes(90), available: Bytes(10) });
    let elsewhere = tempfile::tempdir().expect("a folder");
    keeper(elsewhere.path(), &runtime, 1).1.look().await;
    assert_eq!(on_host(&runtime).await, all, "wharf does not know that it pulled them");
}

#[tokio::test]
async fn an_image_that_docker_keeps_does_not_keep_the_others() {
    let state = tempfile::tempdir().expect("a folder");
    let runtime = full_host(state.path()).await;
    // A container that was made after the images were listed.
    runtime.keep_image("web:1");
    keeper(state.path(), &runtime, 1).1.look().await;
    assert_eq!(on_host(&runtime).await, ["mine:1", "web:1", "web:3", "web:4"]);
}

#[tokio::test]
async fn a_note_is_on_disk_when_it_is_answered_and_a_pull_is_followed_by_a_look() {
    let state = tempfile::tempdir().expect("a folder");
    let runtime = full_host(state.path()).await;
    let (_images, mut keeper) = keeper(state.path(), &runtime, 1);
    keeper.look().await;
    for (ready, follows_soon) in [(ReadyImage::found(image("web:4").id), false), (pulled("web:5"), true)] {
        let (id, (done, answer)) = (ready.id.clone(), oneshot::channel());
        keeper.serve(Request::Note(Box::new((part(), ready)), done)).await;
        answer.await.expect("it is answered");
        assert!(StoredRecord::load(state.path(), CLUSTER, HOST).record().is_kept(&id), "{id:?}");
        assert_eq!(keeper.look_at <= Instant::now() + AFTER_PULL, follows_soon, "{id:?}");
    }
}

#[tokio::test]
async fn a_condition_of_the_host_is_followed_by_a_look() {
    let state = tempfile::tempdir().expect("a folder");
    let runtime = full_host(state.path()).await;
    let (images, keeper) = keeper(state.path(), &runtime, 1);
    let (publish, conditions) = watch::channel(Vec::new());
    publish.send_replace(vec![HostCondition::DiskFull { path: "/var/lib/docker".into(), size: Bytes(100) }]);
    let wake = tokio::sync::Notify::new();
    let cleaned = async {
        while on_host(&runtime).await.len() > 3 {
            wake.notified().await;
        }
        images.settle().await;
    };
    tokio::select! {
        () = keeper.run(conditions) => panic!("it never ends"),
        () = runtime.watch(&wake) => panic!("it never ends"),
        () = cleaned => {}
    }
}

#[tokio::test]
async fn actions_of_an_agent_that_stops_do_not_wait() {
    let (images, requests) = Images::channel();
    drop(requests);
    images.settle().await;
    images.note(part(), pulled("web:1")).await;
}
