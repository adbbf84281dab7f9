//! Configs and secrets: what instances get, when they get a new version, and where secrets must never appear.

use std::{
    collections::BTreeMap,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::ensure;
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use common::{
    api::{FilePut, FileView, List, PutRegistry},
    error::Code,
    file::{FileKind, FileSpec},
    name::Name,
    spec::{ServiceSpec, UpdatePolicy},
    time::Span,
};
use http_body_util::BodyExt;
use hyper::Method;
use tests::{cluster::TestCluster, wait::until_async};

const SOON: Duration = Duration::from_secs(20);
/// Values that must not appear on any disk or in any answer.
/// Of a registry.
const PASSWORD: &str = "pull-of-a-mule";
const SECRETS: [&str; 2] = ["correct-horse-battery", "staple-and-another"];

fn name(text: &str) -> Name {
    Name::parse(text).expect("it is a name")
}

fn external(kind: FileKind, text: &str) -> FileSpec {
    FileSpec { external: true, ..FileSpec::of(kind, name(text)) }
}

/// All files below a folder.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().filter_map(Result::ok) {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(entry.path()),
                _ => found.push(entry.path()),
            }
        }
    }
    found
}

fn holds(bytes: &[u8], words: &str) -> bool {
    bytes.windows(words.len()).any(|part| part == words.as_bytes())
}

/// The files in a host's memory, by the name of the instance.
fn in_memory(cluster: &TestCluster) -> BTreeMap<String, String> {
    let read = |path: PathBuf| {
        let instance = path.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        (instance.unwrap_or_default(), std::fs::read_to_string(&path).unwrap_or_default())
    };
    cluster.hosts.iter().flat_map(|host| files_below(host.memory())).map(read).collect()
}

async fn text(cluster: &TestCluster, path: &str) -> String {
    let answer = cluster.client().send(Method::GET, path, Bytes::new()).await.expect("it answers");
    let body = answer.into_body().collect().await.expect("it is whole").to_bytes();
    String::from_utf8(body.to_vec()).expect("it is text")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_reaches_its_instances_and_nothing_else() {
    let cluster = TestCluster::start(3).await;
    let of = |path: &str| format!("/api/v1/environments/default/{path}");
    let mut web = ServiceSpec::of_image("registry.example/web");
    web.replicas = 3;
    web.update = UpdatePolicy { monitor: Span(0), ..UpdatePolicy::default() };
    web.container.files = vec![external(FileKind::Secret, "key"), external(FileKind::Config, "app")];
    let refused = cluster.deploy("shop", web.clone()).await.map(drop).expect_err("there is no such secret yet");
    assert!(refused.to_string().contains("there is no secret key"), "{refused}");

    // Each coordinator has the sealing key, including those that joined later.
    for host in 0..3 {
        until_async(SOON, "the coordinator has the sealing key", async || {
            let set = cluster.client_of(host).send(Method::PUT, &of("secrets/key"), Bytes::from(SECRETS[0])).await;
            if let Err(problem) = &set {
                assert_eq!(problem.code, Code::SealingKeyMissing, "{problem}");
            }
            set.map(drop).map_err(|problem| anyhow::anyhow!("{problem}"))
        })
        .await;
    }
    let registry = PutRegistry { username: "ann".to_owned(), password: PASSWORD.to_owned() };
    cluster.client().put("/api/v1/registries/registry.example", &registry).await.expect("it is set");
    cluster.client().send(Method::PUT, &of("configs/app"), Bytes::from("port=80")).await.expect("it is set");
    cluster.deploy("shop", web).await.expect("it is accepted");
    cluster.wait_for_running(3).await;
    let first = in_memory(&cluster);
    assert_eq!(first.len(), 3, "{first:?}");
    assert!(first.values().all(|value| value == SECRETS[0]), "{first:?}");
    let mode = |path: &PathBuf| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert!(cluster.hosts.iter().flat_map(|host| files_below(host.memory())).all(|path| mode(&path) == 0o444));

    let put: FilePut = {
        let answer = cluster.client().send(Method::PUT, &of("secrets/key"), Bytes::from(SECRETS[1])).await;
        cli::client::read(answer.expect("it is set")).await.expect("it is understood")
    };
    assert_eq!((put.version, put.stacks.as_slice()), (2, &[name("shop")][..]), "the same content made no version");
    until_async(SOON, "every instance has the new value", async || {
        let now = in_memory(&cluster);
        ensure!(now.len() == 3 && now.values().all(|value| value == SECRETS[1]), "{now:?}");
        ensure!(now.keys().all(|instance| !first.contains_key(instance)), "they are new instances");
        anyhow::Ok(())
    })
    .await;

    let secrets: List<FileView> = cluster.client().get(&of("secrets")).await.expect("it answers");
    assert_eq!(secrets.items[0].used_by, ["shop/web"]);
    let in_use = cluster.client().delete(&of("secrets/key")).await.expect_err("it is used");
    assert_eq!(in_use.code, Code::Conflict);
    let nobody_reads = cluster.client().get::<String>(&of("secrets/key")).await.expect_err("there is no such route");
    assert_eq!(nobody_reads.code, Code::Denied);
    let answers = ["secrets", "stacks", "stacks/shop", "stacks/shop/revisions", "instances", "configs"].map(of);
    for path in answers.iter().map(String::as_str).chain(["/api/v1/events"]) {
        let answer = text(&cluster, path).await;
        for secret in SECRETS {
            assert!(!answer.contains(secret) && !answer.contains(&BASE64_STANDARD.encode(secret)), "{path}: {answer}");
        }
    }
    let mut is_seen = false;
    for path in cluster.hosts.iter().flat_map(|host| files_below(host.folder())) {
        // Some files appear and disappear meanwhile.
        let bytes = std::fs::read(&path).unwrap_or_default();
        is_seen |= holds(&bytes, "shop");
        let hidden = [SECRETS[0], SECRETS[1], PASSWORD];
        assert!(hidden.iter().all(|secret| !holds(&bytes, secret)), "{} holds a secret", path.display());
    }
    assert!(is_seen, "what is on the disks can be read at all");

    cluster.client().delete(&of("stacks/shop")).await.expect("it ends");
    cluster.wait_for_running(0).await;
    until_async(SOON, "nothing is left of it", async || {
        let left = in_memory(&cluster);
        ensure!(left.is_empty(), "{left:?}");
        anyhow::Ok(())
    })
    .await;
}
