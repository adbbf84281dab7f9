//! Configs and secrets: versions of files that instances are given.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use common::{
    error::{Code, Problem},
    file::{FileId, FileKind},
    id::StackId,
    name::Name,
    spec::{ServiceSpec, StackSpec},
    time::Timestamp,
};
use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use super::{Applied, StackChange, State, not_found, set_back::Back, trust::hash_of};
use crate::command::{NewFile, Outcome};

/// Most configs and secrets of all environments and stacks.
const MAX_FILES: usize = 10_000;
/// Most bytes of all their versions together.
const MAX_BYTES: usize = 64 << 20;

/// The section of configs and secrets.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Files {
    records: OrdMap<FileId, FileRecord>,
}

/// A config or a secret as the cluster keeps it: the newest version, and those that a revision or an
/// instance names.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FileRecord {
    /// By number; a number is never given out twice while the file exists.
    pub versions: OrdMap<u64, FileVersion>,
}

/// A version of a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FileVersion {
    /// What is in it.
    pub content: Content,
    /// When it was set.
    pub at: Timestamp,
    /// The API token that set it.
    pub by: Option<Name>,
}

/// What is in a file, in the form in which the cluster may keep it.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub enum Content {
    /// A config, as it is.
    Plain(Arc<[u8]>),
    /// A secret, sealed with a key that is in no command and no state.
    Sealed(Arc<[u8]>),
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let word = if matches!(self, Content::Plain(_)) { "plain" } else { "sealed" };
        write!(f, "[{} bytes, {word}]", self.size())
    }
}

impl Content {
    /// Its size as it is kept, in bytes.
    pub fn size(&self) -> usize {
        match self {
            Content::Plain(bytes) | Content::Sealed(bytes) => bytes.len(),
        }
    }

    /// Whether it has the form of its kind.
    fn fits(&self, kind: FileKind) -> bool {
        matches!((self, kind), (Content::Plain(_), FileKind::Config) | (Content::Sealed(_), FileKind::Secret))
    }
}

impl FileRecord {
    /// The newest version and its number.
    pub fn newest(&self) -> Option<(u64, &FileVersion)> {
        self.versions.get_max().map(|(number, version)| (*number, version))
    }

    fn next(&self) -> u64 {
        self.newest().map_or(1, |(number, _)| number + 1)
    }
}

/// The services of a spec that use a file.
fn users<'a>(stack: &'a StackId, spec: &'a StackSpec, file: &'a FileId) -> impl Iterator<Item = &'a Name> {
    let uses = move |service: &ServiceSpec| service.files().any(|(_, spec)| spec.id(stack) == *file);
    spec.services.iter().filter(move |(_, service)| uses(service)).map(|(name, _)| name)
}

impl Files {
    /// Sets all times back.
    pub(super) fn set_back(&mut self, back: Back) {
        back.each(&mut self.records, |record| back.each(&mut record.versions, |version| back.time(&mut version.at)));
    }
}

impl State {
    /// The configs and secrets.
    pub fn files(&self) -> &OrdMap<FileId, FileRecord> {
        &self.files.records
    }

    /// A stack's spec in which every file has its version. Where none is asked for, it is a new one, or the one that
    /// the stack uses now, which after a way back is not the newest; the newest if it uses none.
    pub(super) fn resolve_files(
        &self,
        stack: &StackId,
        spec: &Arc<StackSpec>,
        new: &[NewFile],
    ) -> Result<Arc<StackSpec>, Problem> {
        let mut resolved = spec.clone();
        let mut missing = Vec::new();
        let in_use = self.versions_in_use(stack);
        // The version of a file for which none is asked.
        let unasked = |id: &FileId| {
            let record = self.files.records.get(id);
            if new.iter().any(|new| *id == new.id(stack)) {
                return Some(record.map_or(1, FileRecord::next));
            }
            let used = in_use.get(id).and_then(|versions| versions.last().copied());
            record.and_then(|record| used.or(record.newest().map(|(number, _)| number)))
        };
        if spec.services.values().any(|service| service.files().next().is_some()) {
            for (name, service) in &mut Arc::make_mut(&mut resolved).services {
                for file in service.containers_mut().flat_map(|container| &mut container.files) {
                    let id = file.id(stack);
                    match (file.version, unasked(&id)) {
                        (Some(version), unasked) if unasked == Some(version) || self.has_version(&id, version) => {}
                        (Some(version), _) => missing.push(format!("services.{name}: {id} has no version {version}")),
                        (None, None) => missing.push(format!("services.{name}: there is no {id}")),
                        (None, unasked) => file.version = unasked,
                    }
                }
            }
        }
        if missing.is_empty() {
            return Ok(resolved);
        }
        let problem = Problem::new(Code::InvalidRequest, format!("Stack {stack} cannot be deployed"));
        Err(missing
            .into_iter()
            .fold(problem, Problem::why)
            .fix("Set it first: wharf secret set NAME, wharf config set NAME"))
    }

    /// All sealed texts, with where they lie.
    pub(super) fn sealed_files(&self) -> impl Iterator<Item = (&FileId, u64, &[u8])> {
        self.files.records.iter().flat_map(|(id, record)| {
            record.versions.iter().filter_map(move |(number, version)| match &version.content {
                Content::Sealed(text) => Some((id, *number, &**text)),
                Content::Plain(_) => None,
            })
        })
    }

    /// Replaces a sealed text, if it is there and has not changed.
    pub(super) fn replace_sealed(&mut self, (id, number): (&FileId, u64), before: [u8; 32], text: &Arc<[u8]>) {
        let Some(version) = self.files.records.get_mut(id).and_then(|record| record.versions.get_mut(&number)) else {
            return;
        };
        if let Content::Sealed(present) = &mut version.content
            && hash_of(present) == before
        {
            *present = text.clone();
        }
    }

    fn has_version(&self, id: &FileId, version: u64) -> bool {
        self.files.records.get(id).is_some_and(|record| record.versions.contains_key(&version))
    }

    /// The versions of files that a stack uses now.
    fn versions_in_use(&self, stack: &StackId) -> BTreeMap<FileId, BTreeSet<u64>> {
        let mut used: BTreeMap<FileId, BTreeSet<u64>> = BTreeMap::new();
        let services = self.stacks().get(stack).into_iter().flat_map(|stack| stack.spec.services.values());
        for (_, file) in services.flat_map(ServiceSpec::files) {
            used.entry(file.id(stack)).or_default().extend(file.version);
        }
        used
    }

    /// The versions of a file that are in use now, with their numbers: that of each stack that uses it, else the
    /// newest. A new content is compared with these.
    pub fn used_versions(&self, id: &FileId) -> Vec<(u64, &FileVersion)> {
        let Some(record) = self.files.records.get(id) else { return Vec::new() };
        let of_stack = |stack: &StackId| self.versions_in_use(stack).remove(id).unwrap_or_default();
        let used: BTreeSet<u64> = self.stacks_with(id).iter().flat_map(of_stack).collect();
        let known = |number: u64| record.versions.get(&number).map(|version| (number, version));
        let used: Vec<_> = used.into_iter().filter_map(known).collect();
        if used.is_empty() { record.newest().into_iter().collect() } else { used }
    }

    /// Adds versions; what has no right form or is too much is refused before anything is added.
    pub(super) fn add_files(&mut self, new: Vec<(FileId, Content)>) -> Result<(), Problem> {
        if new.is_empty() {
            return Ok(());
        }
        let unknown = new.iter().filter(|(id, _)| !self.files.records.contains_key(id)).count();
        if self.files.records.len() + unknown > MAX_FILES {
            return Err(Problem::new(Code::InvalidRequest, "The configs and secrets were not set")
                .why(format!("there are already {}, and the limit is {MAX_FILES}", self.files.records.len())));
        }
        let versions = self.files.records.values().flat_map(|record| record.versions.values());
        let kept: usize = versions.map(|version| version.content.size()).sum();
        let bytes = kept + new.iter().map(|(_, content)| content.size()).sum::<usize>();
        if bytes > MAX_BYTES {
            return Err(Problem::new(Code::TooLarge, "The configs and secrets were not set")
                .why(format!("all versions would take {bytes} bytes, and the limit is {MAX_BYTES}"))
                .fix("Remove unused ones; to list them: wharf config ls, wharf secret ls"));
        }
        if let Some((id, _)) = new.iter().find(|(id, content)| !content.fits(id.kind)) {
            return Err(Problem::new(Code::InvalidRequest, format!("{id} was not set"))
                .why("secrets must be sealed, and configs must not"));
        }
        for (id, content) in &new {
            if let Content::Sealed(text) = content {
                self.check_sealed(id, text)?;
            }
        }
        for (id, content) in new {
            let version = FileVersion { content, at: self.basics.clock, by: self.actor().cloned() };
            let record = self.files.records.entry(id.clone()).or_default();
            let number = record.next();
            record.versions.insert(number, version);
            self.record(&id, "file-set", format!("version {number}"));
        }
        Ok(())
    }

    /// Sets a file of the environment; every service that uses it gets the new version.
    pub(super) fn put_file(&mut self, id: &FileId, content: &Content) -> Applied {
        self.known_environment(&id.environment)?;
        // Each stack that uses it gets one more revision that is kept.
        for stack in self.stacks_with(id) {
            let spec = self.stacks().get(&stack).map(|stack| stack.spec.clone());
            spec.map_or(Ok(()), |spec| self.has_room_for(&stack, &spec))?;
        }
        self.add_files(vec![(id.clone(), content.clone())])?;
        let version = self.files.records.get(id).and_then(FileRecord::newest).map_or(0, |(number, _)| number);
        for stack in self.stacks_with(id) {
            let Some(spec) = self.stacks().get(&stack).map(|stack| stack.spec.clone()) else { continue };
            let mut changed = (*spec).clone();
            let containers = changed.services.values_mut().flat_map(ServiceSpec::containers_mut);
            let files = containers.flat_map(|container| &mut container.files);
            files.filter(|file| file.id(&stack) == *id).for_each(|file| file.version = Some(version));
            let (spec, what) = (Arc::new(changed), format!("{id} has version {version}"));
            let change = StackChange { spec: &spec, files: &[], expect: None, what: &what, goes_back: false };
            self.replace_spec(&stack, change, &BTreeMap::new());
        }
        self.prune_files(|other| other == id);
        Ok(Outcome::Revision(version))
    }

    /// The stacks with a service that uses a file.
    pub fn stacks_with(&self, file: &FileId) -> Vec<StackId> {
        let uses =
            |id: &StackId, stack: &super::Stack| !stack.removing && users(id, &stack.spec, file).next().is_some();
        self.stacks().iter().filter(|(id, stack)| uses(id, stack)).map(|(id, _)| id.clone()).collect()
    }

    /// The services that use a file.
    pub fn services_with(&self, file: &FileId) -> Vec<common::id::ServiceId> {
        let of_stack = |(id, stack): (&StackId, &super::Stack)| {
            users(id, &stack.spec, file).map(|name| id.service(name.clone())).collect::<Vec<_>>()
        };
        self.stacks().iter().flat_map(of_stack).collect()
    }

    pub(super) fn remove_file(&mut self, id: &FileId) -> Applied {
        if !self.files.records.contains_key(id) {
            return Err(not_found(&id.kind.to_string(), &id.name));
        }
        let users = self.services_with(id);
        if !users.is_empty() {
            let users: Vec<String> = users.iter().map(ToString::to_string).collect();
            return Err(Problem::new(Code::Conflict, format!("{id} was not removed"))
                .why(format!("it is used by {}", users.join(", ")))
                .fix("First deploy them without it"));
        }
        self.files.records.remove(id);
        self.record(id, "file-removed", "all its versions are gone");
        self.done()
    }

    /// Forgets versions that nothing names any more, of the files that `among` chooses: the newest one of a
    /// file stays, unless the file is a stack's own and no revision knows it.
    pub(super) fn prune_files(&mut self, among: impl Fn(&FileId) -> bool) {
        let chosen: Vec<FileId> = self.files.records.keys().filter(|id| among(id)).cloned().collect();
        if chosen.is_empty() {
            return;
        }
        let named = self.named_files();
        let nothing = BTreeSet::new();
        for id in chosen {
            let used = named.get(&id).unwrap_or(&nothing);
            let Some(record) = self.files.records.get_mut(&id) else { continue };
            let newest = record.newest().map_or(0, |(number, _)| number);
            let stays = |version: u64| used.contains(&version) || (version == newest && id.stack.is_none());
            let old: Vec<u64> = record.versions.keys().copied().filter(|version| !stays(*version)).collect();
            for version in old {
                record.versions.remove(&version);
            }
            if record.versions.is_empty() {
                self.files.records.remove(&id);
            }
        }
    }

    /// The versions of files that a revision, a service or an instance names.
    fn named_files(&self) -> BTreeMap<FileId, BTreeSet<u64>> {
        let mut named: BTreeMap<FileId, BTreeSet<u64>> = BTreeMap::new();
        let mut add = |stack: &StackId, spec: &ServiceSpec| {
            for (_, file) in spec.files() {
                named.entry(file.id(stack)).or_default().extend(file.version);
            }
        };
        for (id, stack) in self.stacks() {
            let specs = stack.history.iter().map(|revision| &revision.spec).chain([&stack.spec]);
            specs.flat_map(|spec| spec.services.values()).for_each(|service| add(id, service));
            for service in stack.services.values() {
                add(id, &service.spec);
                service.stable.iter().for_each(|stable| add(id, &stable.spec));
            }
        }
        self.instances().iter().for_each(|(id, instance)| add(id.stack(), &instance.spec));
        named
    }
}

#[cfg(test)]
mod tests {
    use common::{file::FileSpec, name::default_environment, time::Span};

    use super::*;
    use crate::{
        Command,
        testing::{Fixture, name, stack, web},
    };

    fn file(kind: FileKind, text: &str) -> FileId {
        FileId { environment: default_environment(), stack: None, kind, name: name(text) }
    }

    fn plain(text: &str) -> Content {
        Content::Plain(Arc::from(text.as_bytes()))
    }

    fn sealed(text: &str) -> Content {
        Content::Sealed(Arc::from(text.as_bytes()))
    }

    fn put(id: &FileId, content: Content) -> Command {
        Command::PutFile { id: id.clone(), content }
    }

    fn uses(kind: FileKind, text: &str, external: bool) -> ServiceSpec {
        web(|web| web.container.files = vec![FileSpec { external, ..FileSpec::of(kind, name(text)) }])
    }

    fn put_stack(service: ServiceSpec, files: Vec<NewFile>) -> Command {
        let spec = StackSpec { services: [(name("web"), service)].into(), ..StackSpec::default() };
        Command::PutStack {
            id: stack(),
            spec: spec.into(),
            files,
            expect_revision: None,
            what: String::new(),
            goes_back: false,
        }
    }

    fn own(content: Content) -> Vec<NewFile> {
        vec![NewFile { kind: FileKind::Config, name: name("app"), content }]
    }

    fn versions(fixture: &Fixture, id: &FileId) -> Vec<u64> {
        fixture.cluster.files().get(id).map(|record| record.versions.keys().copied().collect()).unwrap_or_default()
    }

    fn used(fixture: &Fixture) -> (u64, Option<u64>) {
        let service = fixture.cluster.service(&stack().service(name("web"))).expect("it is there");
        (service.revision, service.spec.container.files[0].version)
    }

    #[test]
    fn a_new_version_of_a_secret_is_a_revision_of_what_uses_it() {
        let mut fixture = Fixture::of_hosts(1);
        let key = file(FileKind::Secret, "key");
        let without = fixture.refused(put_stack(uses(FileKind::Secret, "key", true), Vec::new()));
        assert!(without.contains("services.web: there is no secret key"), "{without}");
        let bare = fixture.refused(put(&key, plain("hunter2")));
        assert!(bare.contains("secrets must be sealed"), "{bare}");

        fixture.done(put(&key, sealed("1")));
        fixture.done(put_stack(uses(FileKind::Secret, "key", true), Vec::new()));
        fixture.settle();
        assert_eq!(used(&fixture), (1, Some(1)));
        fixture.done(put_stack(uses(FileKind::Secret, "key", true), Vec::new()));
        assert_eq!(used(&fixture), (1, Some(1)), "nothing has changed");
        fixture.done(put(&key, sealed("2")));
        assert_eq!(used(&fixture), (2, Some(2)));
        fixture.pass(Span::seconds(60), &|_| {});
        let (_, instance) = fixture.cluster.instances().iter().next().expect("it runs");
        assert_eq!(instance.spec.container.files[0].version, Some(2), "it was rolled out");
        assert_eq!(versions(&fixture, &key), [1, 2], "the history names both");

        let mut before = uses(FileKind::Secret, "key", true);
        before.container.files[0].version = Some(1);
        fixture.done(put_stack(before, Vec::new()));
        assert_eq!(used(&fixture), (3, Some(1)), "a revision of before has the version of before");
        let refused = fixture.refused(Command::RemoveFile(key.clone()));
        assert!(refused.contains("used by default/shop/web"), "{refused}");
        fixture.done(put_stack(web(|_| {}), Vec::new()));
        fixture.done(Command::RemoveFile(key.clone()));
        assert!(versions(&fixture, &key).is_empty());
    }

    #[test]
    fn all_versions_together_have_a_limit() {
        let mut fixture = Fixture::of_hosts(1);
        let large = Content::Plain(vec![7; common::file::MAX_CONTENT].into());
        let room = MAX_BYTES / common::file::MAX_CONTENT;
        for number in 0..room {
            fixture.done(put(&file(FileKind::Config, &format!("c{number}")), large.clone()));
        }
        let refused = fixture.refused(put(&file(FileKind::Config, "more"), large.clone()));
        assert!(refused.contains(&format!("and the limit is {MAX_BYTES}")), "{refused}");
        fixture.done(Command::RemoveFile(file(FileKind::Config, "c0")));
        fixture.done(put(&file(FileKind::Config, "more"), large));
    }

    #[test]
    fn versions_that_nothing_names_are_forgotten() {
        let mut fixture = Fixture::of_hosts(1);
        let app = file(FileKind::Config, "app");
        for version in 1..=3 {
            fixture.done(put(&app, plain(&version.to_string())));
        }
        assert_eq!(versions(&fixture, &app), [3], "nobody uses it, and the newest stays");

        let own_app = FileId { stack: Some(name("shop")), ..app };
        let mut with_version_7 = uses(FileKind::Config, "app", false);
        with_version_7.container.files[0].version = Some(7);
        let unknown = fixture.refused(put_stack(with_version_7, Vec::new()));
        assert!(unknown.contains("config shop/app has no version 7"), "{unknown}");
        for version in 1..=25 {
            fixture.done(put_stack(uses(FileKind::Config, "app", false), own(plain(&version.to_string()))));
            fixture.settle();
        }
        assert_eq!(used(&fixture), (25, Some(25)));
        assert_eq!(versions(&fixture, &own_app), (6..=25).collect::<Vec<u64>>(), "as many as revisions are kept");
        fixture.done(Command::RemoveStack(stack()));
        fixture.settle();
        assert!(versions(&fixture, &own_app).is_empty(), "a stack's own files end with it");
        assert_eq!(fixture.cluster.files().len(), 1, "the environment's stay");
    }

    #[test]
    fn after_a_way_back_what_is_in_use_counts_and_not_what_is_newest() {
        let mut fixture = Fixture::of_hosts(1);
        let own_app = FileId { stack: Some(name("shop")), ..file(FileKind::Config, "app") };
        for text in ["one", "two", "bad"] {
            fixture.done(put_stack(uses(FileKind::Config, "app", false), own(plain(text))));
        }
        let mut back = uses(FileKind::Config, "app", false);
        back.container.files[0].version = Some(2);
        fixture.done(put_stack(back, Vec::new()));
        assert_eq!(used(&fixture), (4, Some(2)));
        let in_use = |fixture: &Fixture| {
            let used = fixture.cluster.used_versions(&own_app);
            used.into_iter().map(|(number, version)| (number, version.content == plain("two"))).collect::<Vec<_>>()
        };
        assert_eq!(in_use(&fixture), [(2, true)]);
        fixture.done(put_stack(uses(FileKind::Config, "app", false), Vec::new()));
        assert_eq!(used(&fixture), (4, Some(2)), "the same file again changes nothing");
        fixture.done(put_stack(uses(FileKind::Config, "app", false), own(plain("bad"))));
        assert_eq!(used(&fixture), (5, Some(4)), "what failed may be tried again");

        let shared = file(FileKind::Config, "shared");
        fixture.done(put(&shared, plain("one")));
        fixture.done(put(&shared, plain("two")));
        let newest =
            |fixture: &Fixture| fixture.cluster.used_versions(&shared).iter().map(|(n, _)| *n).collect::<Vec<_>>();
        assert_eq!(newest(&fixture), [2], "nobody uses it");
    }
}
