//! Published compose files, and for each the plan of wharf, or why it refuses the file.
//!
//! The texts are in `tests/golden/plans`. After an intended change, run `UPDATE=1 cargo test -p tests --test corpus`,
//! and review the differences in git.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use common::{
    api::{PutFile, Settings},
    explain::plan_lines,
    file::FileKind,
    host::{HostFacts, Liveness},
    id::{BootId, ClusterId, HostId, MemberId, StackId},
    name::{Name, default_environment},
    network::NetworkPlan,
    quantity::{Bytes, MilliCpu},
    secret::Secret,
    time::Timestamp,
    token::{JoinRole, SecretHash, TokenId},
};
use compose::{Project, ReadError, Source, env_file};
use coordinator_core::{
    Batch, Command, Outcome, State,
    command::{Admission, Authority, Genesis, NewFile, NewJoinToken},
    state::Content,
    view,
};

const NOW: Timestamp = Timestamp(1_000_000);
/// The home of the user on the machine from which they deploy.
const HOME: &str = "/home/ann";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

fn apply(cluster: &mut State, command: Command) {
    let outcomes = cluster.apply(&Batch { at: NOW, proposals: vec![command.into()] });
    assert!(!outcomes.iter().any(|outcome| matches!(outcome, Outcome::Rejected(_))), "{outcomes:?}");
}

/// Three hosts in a private network, like rented ones.
fn three_hosts() -> State {
    let mut cluster = State::default();
    let none = || Secret::new(Vec::new());
    let name = |number: u8| -> Name { format!("h{number}").parse().expect("a name") };
    let id = |number: u8| HostId([number; 10]);
    let token = TokenId([1; 5]);
    apply(
        &mut cluster,
        Command::Initialize(Box::new(Genesis {
            cluster: ClusterId([9; 10]),
            authority: Authority {
                certificate: Vec::new(),
                key: none(),
                join_certificate: Vec::new(),
                join_key: none(),
            },
            settings: Settings::default(),
            network: NetworkPlan::default(),
            member: MemberId(1),
            address: ([10, 0, 0, 1], 7443).into(),
            host: id(1),
            name: name(1),
            level: coordinator_core::level::LEVEL,
        })),
    );
    apply(
        &mut cluster,
        Command::PutJoinToken(Box::new(NewJoinToken {
            id: token,
            secret: SecretHash([0; 32]),
            role: JoinRole::Agent,
            expires_at: Timestamp(u64::MAX),
            max_uses: 9,
            labels: BTreeMap::new(),
            from: None,
        })),
    );
    for number in 1..=3 {
        let address = [10, 0, 0, number];
        if number > 1 {
            let (host, name, from) = (id(number), name(number), address.into());
            apply(
                &mut cluster,
                Command::Admit(Box::new(Admission { token, host, name, from, address: (address, 7443).into() })),
            );
        }
        let facts = HostFacts {
            hostname: format!("h{number}"),
            address: address.into(),
            cpu: MilliCpu(4000),
            memory: Bytes(16 << 30),
            os: "linux".into(),
            arch: "x86_64".into(),
            kernel: "6.1.0".into(),
            docker: "28.5".into(),
            agent: "0.1.0".into(),
            boot: BootId([0; 10]),
            devices: Default::default(),
            wireguard: None,
        };
        apply(&mut cluster, Command::HostReported { host: id(number), facts, machine: [number; 16] });
        apply(&mut cluster, Command::HostLiveness { host: id(number), liveness: Liveness::Ready });
    }
    cluster
}

/// The output of `wharf diff` for a project's folder with these files.
fn said(folder: &Path, sources: &[Source]) -> String {
    let name = folder.file_name().expect("a name").to_string_lossy().into_owned();
    let home = format!("{HOME}/{name}");
    let mut variables = BTreeMap::from([("HOME".to_owned(), HOME.to_owned())]);
    if let Ok(text) = fs::read_to_string(folder.join(".env")) {
        let read = env_file::parse(&text, env_file::Format::Compose, &variables).expect("it can be read");
        variables.extend(read.values.into_iter().filter_map(|(key, value)| Some((key, value?))));
    }
    let read = |path: &str| {
        let below = path.strip_prefix(&home).unwrap_or(path).trim_start_matches('/');
        fs::read(folder.join(below)).map_err(|_| ReadError::Missing)
    };
    let project = Project { variables: &variables, directory: &home, profiles: &[], wanted: &[], read: &read };
    let composed = match compose::compose(sources, &project) {
        Ok(composed) => composed,
        Err(error) => {
            let warnings = error.warnings().iter().map(|warning| format!("! {warning}\n"));
            return warnings.collect::<String>() + &format!("{error}\n");
        }
    };
    let mut lines: Vec<String> = composed.warnings.iter().map(|warning| format!("! {warning}")).collect();
    lines.extend(composed.notes.iter().map(|note| format!("  {note}")));
    let stack: Name = composed.name.unwrap_or_else(|| name.to_lowercase().parse().expect("a name"));
    let id = StackId { environment: default_environment(), stack };
    let file = |file: &PutFile| {
        let bytes = file.content.0.expose().as_slice().into();
        let content = match file.kind {
            FileKind::Config => Content::Plain(bytes),
            FileKind::Secret => Content::Sealed(bytes),
        };
        NewFile { kind: file.kind, name: file.name.clone(), content }
    };
    let command = Command::PutStack {
        id: id.clone(),
        spec: Arc::new(composed.spec),
        files: composed.files.iter().map(file).collect(),
        expect_revision: None,
        what: "deployed".to_owned(),
        goes_back: false,
    };
    match view::stack_plan(&three_hosts(), &id, &command, NOW) {
        Ok(plan) => {
            lines.extend(plan_lines(&plan));
            lines.extend(compose::default_lines(&composed.defaults).into_iter().map(|line| format!("  {line}")));
        }
        Err(problem) => lines.push(problem.to_string()),
    }
    lines.join("\n") + "\n"
}

/// A file that adds an image to each service with `build`.
fn images(text: &str) -> Option<Source> {
    let mut service = "";
    let mut override_text = String::new();
    for line in text.lines() {
        let name = line.strip_prefix("  ").filter(|rest| !rest.starts_with(' '));
        service = name.and_then(|rest| rest.trim_end().strip_suffix(':')).unwrap_or(service);
        if line.starts_with("    build:") {
            override_text.push_str(&format!("  {service}: {{build: !reset null, image: 'built/{service}:1'}}\n"));
        }
    }
    let text = format!("services:\n{override_text}");
    (!override_text.is_empty()).then(|| Source { name: "built.yaml".to_owned(), text })
}

#[test]
fn every_file_is_planned_or_refused_as_expected() {
    let update = std::env::var_os("UPDATE").is_some();
    let golden = root().join("golden/plans");
    let (mut differ, mut count) = (Vec::new(), 0);
    let folders = fs::read_dir(root().join("corpus/awesome-compose")).expect("the corpus is there");
    let mut folders: Vec<PathBuf> =
        folders.map(|entry| entry.expect("an entry").path()).filter(|p| p.is_dir()).collect();
    folders.sort();
    for folder in folders {
        let file = ["compose.yaml", "compose.yml"].into_iter().find(|name| folder.join(name).exists());
        let file = file.expect("each has a compose file");
        let text = fs::read_to_string(folder.join(file)).expect("it can be read");
        let given = Source { name: file.to_owned(), text: text.clone() };
        let mut shown = said(&folder, std::slice::from_ref(&given));
        if let Some(images) = images(&text) {
            shown.push_str("\n--- with an image for each service that is built\n");
            shown.push_str(&said(&folder, &[given, images]));
        }
        let path = golden.join(folder.file_name().expect("a name")).with_extension("txt");
        if update {
            fs::create_dir_all(&golden).expect("the folder can be made");
            fs::write(&path, &shown).expect("it can be written");
        } else if fs::read_to_string(&path).unwrap_or_default() != shown {
            differ.push(format!("{}:\n{shown}", path.display()));
        }
        count += 1;
    }
    assert_eq!(count, 39, "all files of the corpus are looked at");
    assert!(differ.is_empty(), "these differ from what is expected:\n{}", differ.join("\n"));
}
