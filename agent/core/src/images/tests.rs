use std::{collections::BTreeMap, sync::Arc};

use common::{
    assignment::{AssignedInstance, Assignment},
    id::{ClusterId, HostId, InstanceId},
    instance::{Desired, Want},
    part::Part,
    spec::{ContainerSpec, ServiceSpec, Sidekick},
};

use super::*;

const DAY: u64 = 24 * 60 * 60 * 1000;

fn day(number: u64) -> Timestamp {
    Timestamp(number * DAY)
}

fn id(text: &str) -> ImageId {
    ImageId(text.to_owned())
}

fn references(texts: &[&str]) -> BTreeSet<Reference> {
    texts.iter().map(|text| Reference::of(text)).collect()
}

/// An image of 100 bytes that nothing uses.
fn image(name: &str, shown: &[&str]) -> HostImage {
    HostImage { id: id(name), references: references(shown), size: Bytes(100), is_used: false }
}

fn part(service: &str) -> ServicePart {
    let instance: InstanceId = format!("default/shop/{service}/1.1").parse().expect("an id");
    ServicePart::from(&instance.main())
}

fn percent(used: u64) -> Fill {
    Fill { used: Bytes(used), available: Bytes(100 - used) }
}

/// A host, its record, and what it has to run.
#[derive(Default)]
struct Host {
    images: Vec<HostImage>,
    record: ImageRecord,
    assigned: Assigned,
}

impl Host {
    /// The host after wharf has pulled an image for a service, which brought these references.
    fn pull(&mut self, service: &str, name: &str, shown: &[&str], at: Timestamp) {
        let pulled = Reference::of(shown[0]);
        let ready = ReadyImage::pulled(&pulled, id(name), references(shown), &self.images);
        self.record.note(part(service), ready, at);
        match self.images.iter_mut().find(|image| image.id == id(name)) {
            Some(known) => known.references.extend(references(shown)),
            None => self.images.push(image(name, shown)),
        }
    }

    /// The host after wharf has found the image of a service on it.
    fn find(&mut self, service: &str, name: &str, at: Timestamp) {
        self.record.note(part(service), ReadyImage::found(id(name)), at);
    }

    /// Three images of the service web, of which the first is left by it.
    fn with_three_revisions() -> Host {
        let mut host = Host::default();
        host.pull("web", "a", &["web:1", "web@sha256:a"], day(1));
        host.pull("web", "b", &["web:2", "web@sha256:b"], day(2));
        host.pull("web", "c", &["web:3", "web@sha256:c"], day(3));
        host
    }

    fn image(&mut self, name: &str) -> &mut HostImage {
        self.images.iter_mut().find(|image| image.id == id(name)).expect("it is on the host")
    }

    fn snapshot<'a>(&'a self, fill: Fill, tried: Option<&'a BTreeSet<ImageId>>) -> Snapshot<'a> {
        Snapshot { images: &self.images, record: &self.record, assigned: &self.assigned, fill, tried }
    }

    /// What may go, in order, as Docker is asked for it.
    fn removable(&self) -> Vec<Vec<String>> {
        let removable = removable(&self.snapshot(percent(90), None));
        removable.into_iter().map(|removal| removal.names).collect()
    }

    #[track_caller]
    fn check(&self, expected: &[&[&str]]) {
        assert_eq!(self.removable(), expected);
    }
}

#[test]
fn the_images_of_the_last_two_revisions_stay() {
    let mut host = Host::with_three_revisions();
    host.check(&[&["web:1", "web@sha256:a"]]);
    // A rollback to the first one: the second is the older one now.
    host.find("web", "a", day(4));
    host.check(&[&["web:2", "web@sha256:b"]]);
    // Another service still has it.
    host.find("api", "b", day(5));
    host.check(&[]);
}

#[test]
fn an_image_that_is_used_goes_on_being_there() {
    let mut host = Host::with_three_revisions();
    host.image("a").is_used = true;
    host.check(&[]);
    host.image("a").is_used = false;
    host.assigned.references = references(&["docker.io/library/web:1"]);
    host.check(&[]);
}

#[test]
fn what_wharf_did_not_pull_stays() {
    let images = vec![image("mine", &["mine:1"]), image("built", &[]), image("preloaded", &["web:1"])];
    let mut host = Host { images, ..Host::default() };
    // wharf used it as it was, pulled what was there already, and pulled another tag of it.
    host.find("web", "preloaded", day(1));
    host.pull("web", "preloaded", &["web:1", "web@sha256:p"], day(2));
    host.pull("web", "preloaded", &["web:stable", "web@sha256:p"], day(3));
    host.check(&[]);
    assert_eq!(host.record, ImageRecord::default(), "nothing of that is remembered");
    host.images.clear();
    host.record.observe(&[], &Assigned::default(), day(4));
    host.pull("web", "preloaded", &["web:1"], day(5));
    assert!(host.record.pulled(&id("preloaded")).is_some(), "once it was gone, wharf did pull it");
}

#[test]
fn an_image_to_which_others_refer_stays_with_all_its_references() {
    let mut host = Host::with_three_revisions();
    host.image("a").references.extend(references(&["keep:1"]));
    host.check(&[]);
    // A pull by hand in the same repository is somebody else's too.
    host.image("a").references = references(&["web:1", "web:by-hand"]);
    host.check(&[]);
    host.image("a").references = references(&["web:1"]);
    host.check(&[&["web:1"]]);
}

#[test]
fn a_reference_that_came_at_the_same_time_is_not_of_the_pull() {
    let shown = references(&["web:1", "web@sha256:a", "keep:1"]);
    let ready = ReadyImage::pulled(&Reference::of("web:1"), id("a"), shown, &[]);
    let mut record = ImageRecord::default();
    record.note(part("web"), ready, day(1));
    let pulled = record.pulled(&id("a")).expect("wharf pulled it");
    assert_eq!(pulled.references, references(&["web:1", "web@sha256:a"]));
}

#[test]
fn several_tags_of_wharfs_own_go_together_and_digests_last() {
    let mut host = Host::default();
    host.pull("web", "a", &["web@sha256:a"], day(1));
    host.pull("web", "a", &["web:1", "web@sha256:a"], day(1));
    host.pull("api", "a", &["api:1"], day(1));
    for service in ["web", "api"] {
        host.pull(service, "b", &["web:2"], day(2));
        host.pull(service, "c", &["web:3"], day(3));
    }
    host.check(&[&["api:1", "web:1", "web@sha256:a"]]);
}

#[test]
fn an_image_whose_tag_has_moved_goes_by_its_digest_or_its_id() {
    let mut host = Host::with_three_revisions();
    host.image("a").references = references(&["web@sha256:a"]);
    host.check(&[&["web@sha256:a"]]);
    host.image("a").references.clear();
    host.check(&[&["a"]]);
}

#[test]
fn a_tag_that_others_pulled_to_another_image_is_not_wharfs() {
    let mut host = Host::with_three_revisions();
    host.images.retain(|image| image.id != id("a"));
    host.images.push(image("z", &["web:1", "web@sha256:z"]));
    host.check(&[]);
}

#[test]
fn what_has_left_the_host_and_come_back_without_wharf_is_not_wharfs() {
    let mut host = Host::with_three_revisions();
    let gone: Vec<HostImage> = host.images.iter().filter(|image| image.id != id("a")).cloned().collect();
    host.record.observe(&gone, &Assigned::default(), day(4));
    host.check(&[]);
    // A reference alone.
    let mut host = Host::with_three_revisions();
    host.image("a").references = references(&["web@sha256:a"]);
    host.record.observe(&host.images, &Assigned::default(), day(4));
    host.image("a").references.extend(references(&["web:1"]));
    host.check(&[]);
}

#[test]
fn the_one_that_was_used_longest_ago_goes_first_and_then_the_largest() {
    let mut host = Host::default();
    for (name, at) in [("old", 2), ("large", 3), ("small", 3), ("recent", 1)] {
        host.pull("web", name, &[&format!("web:{name}")], day(at));
    }
    host.image("large").size = Bytes(500);
    host.image("recent").is_used = true;
    host.record.observe(&host.images, &Assigned::default(), day(4));
    host.image("recent").is_used = false;
    host.pull("web", "x", &["web:x"], day(5));
    host.pull("web", "y", &["web:y"], day(5));
    host.check(&[&["web:old"], &["web:large"], &["web:small"], &["web:recent"]]);
}

#[test]
fn images_of_a_service_that_has_left_the_host_stay_for_a_week() {
    let mut host = Host::with_three_revisions();
    let assigned = Assigned { parts: [part("web")].into(), ..Assigned::default() };
    host.record.observe(&host.images, &assigned, day(20));
    host.check(&[&["web:1", "web@sha256:a"]]);
    host.record.observe(&host.images, &Assigned::default(), day(26));
    host.check(&[&["web:1", "web@sha256:a"]]);
    host.record.observe(&host.images, &Assigned::default(), day(27));
    assert_eq!(host.removable().len(), 3, "nobody goes back to them");
}

#[test]
fn the_record_is_bounded_and_changes_rarely() {
    let mut host = Host::default();
    host.pull("web", "a", &["web:1"], day(1));
    for number in 0..5000 {
        host.find(&format!("s{number}"), "a", day(1));
    }
    let assigned = Assigned { parts: [part("web")].into(), ..Assigned::default() };
    host.record.observe(&host.images, &assigned, day(2));
    let bytes = common::codec::size(&host.record).expect("it has a size");
    assert!(bytes < 256 << 10, "{bytes}");
    let before = host.record.clone();
    host.image("a").is_used = true;
    host.record.observe(&host.images, &assigned, Timestamp(day(2).0 + 1000));
    host.find("web", "a", Timestamp(day(2).0 + 2000));
    host.image("a").is_used = false;
    assert_eq!(host.record.pulled(&id("a")).map(|pulled| pulled.last_used), Some(Timestamp(day(2).0 + 1000)));
    assert_ne!(host.record, before, "its use is noted, once");
}

#[test]
fn a_clean_up_begins_above_one_mark_and_ends_at_the_other() {
    let host = Host::with_three_revisions();
    let (fresh, tried) = (BTreeSet::new(), BTreeSet::from([id("a")]));
    let first = Step::Image(removable(&host.snapshot(percent(90), None)).remove(0));
    for (used, tried, expected) in [
        (85, None, Step::Rest),
        (86, None, Step::BuildCaches),
        (86, Some(&fresh), first.clone()),
        (71, Some(&fresh), first),
        (70, Some(&fresh), Step::Rest),
        (99, Some(&tried), Step::Rest),
    ] {
        assert_eq!(next_step(&host.snapshot(percent(used), tried)), expected, "{used} % and {tried:?}");
    }
    let none = Fill { used: Bytes(0), available: Bytes(0) };
    assert_eq!(next_step(&host.snapshot(none, None)), Step::Rest, "some file systems have no blocks");
}

#[test]
fn an_assignment_names_the_images_of_all_its_parts() {
    let mut spec = ServiceSpec::of_image("web:1");
    let sidekick = Sidekick { container: ContainerSpec::of_image("log"), depends_on: BTreeMap::new() };
    spec.sidekicks.insert("log".parse().expect("a name"), sidekick);
    spec.pre_start.push(ContainerSpec::of_image("docker.io/shop/migrate:1"));
    let instance = AssignedInstance {
        id: "default/shop/web/1.1".parse().expect("an id"),
        desired: Desired { want: Want::Run, reason: None },
        spec: Arc::new(spec),
        image: "web:1@sha256:a".into(),
        ports: Vec::new(),
        devices: Vec::new(),
        restarts: 0,
        retries: 0,
        ended: None,
        credentials: Vec::new(),
    };
    let mut assignment = Assignment::nothing(ClusterId([1; 10]), HostId([2; 10]));
    assignment.instances.push(instance);
    let assigned = Assigned::of(&assignment);
    assert_eq!(assigned.references, references(&["web@sha256:a", "log:latest", "shop/migrate:1"]));
    let parts: Vec<Part> = assigned.parts.into_iter().map(|part| part.part).collect();
    let log = Part::Sidekick("log".parse().expect("a name"));
    assert_eq!(parts, [Part::Main, Part::Network, Part::Step(1), log]);
}
