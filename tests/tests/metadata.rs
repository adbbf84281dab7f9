//! Programs in containers on real hosts query the metadata of themselves and their neighbours, at the address and the
//! paths of rancher-metadata.

use std::time::{Duration, Instant};

use anyhow::ensure;
use tests::{lab::Lab, wait::until};

const SOON: Duration = Duration::from_secs(20);

fn stack(web: u32) -> String {
    format!(
        "
services:
  ask:
    image: lab/web:1
    command: [/bin/sleep, '100000']
    stop_grace_period: 1s
    labels: {{team: red}}
    deploy: {{placement: {{constraints: [node.hostname == h1]}}}}
  web:
    image: lab/web:1
    command: [/bin/httpd, -f, -p, '80', -h, /www]
    deploy: {{replicas: {web}}}
"
    )
}

/// The answer that a container gets, or the error.
fn told(lab: &Lab, container: &str, url: &str) -> String {
    told_with(lab, container, "", url)
}

fn told_with(lab: &Lab, container: &str, options: &str, url: &str) -> String {
    let get = format!("/bin/busybox wget -q -O - {options} '{url}' 2>&1; true");
    let words = ["exec", container, "/bin/busybox", "timeout", "30", "/bin/busybox", "sh", "-c", &get];
    lab.docker("h1", &words).expect("it asks")
}

#[test]
fn a_program_learns_who_it_is() {
    let lab = Lab::up(2);
    lab.deploy("meta", &stack(2));
    let ask = "default.meta.ask.1.1";
    let own = |path: &str| told(&lab, ask, &format!("http://169.254.169.250/latest/{path}"));
    until(SOON, "the cluster knows it", || {
        let health = own("self/container/health_state");
        ensure!(health == "healthy", "{health}");
        let containers = own("self/stack/services/web/containers");
        ensure!(containers.lines().count() == 2, "{containers}");
        anyhow::Ok(())
    });
    for (path, expected) in [
        ("self/container/name", ask),
        ("self/container/labels/team", "red"),
        ("self/container/service_index", "1"),
        ("self/service/name", "ask"),
        ("self/stack/name", "meta"),
        ("self/host/name", "h1"),
        ("self/host/agent_ip", "10.97.0.1"),
        ("environment_name", "default"),
        ("services/web/scale", "2"),
        ("hosts", "0=h1\n1=h2\n"),
    ] {
        assert_eq!(own(path), expected, "{path}");
    }
    for name in ["rancher-metadata", "metadata.wharf.internal"] {
        assert_eq!(told(&lab, ask, &format!("http://{name}/2015-12-19/self/stack/name")), "meta", "{name}");
    }
    let json =
        told_with(&lab, ask, "--header 'Accept: application/json'", "http://rancher-metadata/latest/self/service");
    let service: serde_json::Value = serde_json::from_str(&json).expect("it is JSON");
    assert_eq!(service["labels"]["team"], "red", "{service}");
    assert!(own("nothing").contains("404"), "{}", own("nothing"));

    // A waiting request is answered as soon as something changes.
    let version = own("version");
    let again = own(&format!("version?wait=true&value={version}&maxWait=1"));
    assert_eq!(again, version, "nothing has changed");
    let began = Instant::now();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| own(&format!("version?wait=true&value={version}&maxWait=25")));
        lab.exec("h1", &["wharf", "scale", "meta/web=3"]).expect("one more is wanted");
        assert_ne!(waiting.join().expect("it does not panic"), version);
    });
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    others_learn_nothing(&lab, ask);
}

fn others_learn_nothing(lab: &Lab, ask: &str) {
    lab.exec("h1", &["wharf", "env", "create", "other"]).expect("it is made");
    let file = lab.put_file("h1", "other.yaml", &stack(0));
    lab.exec("h1", &["wharf", "deploy", "-e", "other", "-f", &file, "-n", "apart", "-y"]).expect("it is deployed");
    let apart = "other.apart.ask.1.1";
    assert_eq!(told(lab, apart, "http://rancher-metadata/latest/stacks"), "0=apart\n");
    assert_eq!(told(lab, ask, "http://rancher-metadata/latest/stacks"), "0=meta\n");
    // The service is reachable only at its own address, and not from hosts.
    let words = |to: &'static str| ["busybox", "timeout", "2", "busybox", "wget", "-q", "-O", "-", to];
    let (code, _, said) = lab.try_exec("h1", &words("http://10.42.0.1:8474/latest/self/container/name"));
    assert!(code != 0 && said.contains("403"), "{code}: {said}");
    let words = ["exec", ask, "/bin/busybox", "timeout", "2", "/bin/busybox", "nc", "10.42.0.1", "8474"];
    assert!(lab.docker("h1", &words).is_err(), "nor a container that asks for it elsewhere");
}
