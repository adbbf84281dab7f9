//! A Docker as shipped today: newer, and without the API versions that older clients use.

use std::time::Duration;

use anyhow::ensure;
use tests::{lab::Lab, wait::until};

const SOON: Duration = Duration::from_secs(40);

#[test]
fn wharf_runs_on_a_docker_that_refuses_older_versions_of_its_api() {
    let lab = Lab::on_newer_docker(2);
    let ask = |path: &str| {
        lab.exec("h1", &["curl", "-s", "--unix-socket", "/run/docker.sock", &format!("http://docker{path}/info")])
    };
    let refused = ask("/v1.41").expect("it answers");
    assert!(refused.contains("client version 1.41 is too old"), "{refused}");

    lab.deploy(
        "shop",
        "
services:
  web:
    image: lab/web:1
    ports: ['80']
    stop_grace_period: 1s
    healthcheck: {test: [CMD, /bin/wget, -qO-, 'http://127.0.0.1/'], interval: 500ms}
    deploy: {replicas: 2}
  client: {image: lab/web:1, command: [/bin/sleep, '10000'], stop_grace_period: 1s}
",
    );
    let client = lab.instances("h1").expect("they are listed");
    let client = client.iter().find(|i| i.id.service().service.as_str() == "client").expect("it runs");
    let host = client.host_name.as_ref().expect("its host is there").as_str();
    let call = ["exec", &client.id.container_name(), "/bin/busybox", "timeout", "2", "wget", "-qO-", "http://web/"];
    until(SOON, "the service answers", || {
        let said = lab.docker(host, &call)?;
        ensure!(said.trim() == "ok", "{said}");
        anyhow::Ok(())
    });
    lab.exec("h1", &["wharf", "logs", "shop/web"]).expect("output is read");
    lab.exec("h1", &["wharf", "rm", "shop", "-y"]).expect("it goes");
    let left = lab.docker(host, &["ps", "-aq", "--filter", "label=wharf.cluster"]).expect("it answers");
    assert_eq!(left, "");
}
