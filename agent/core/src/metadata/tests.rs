use common::{id::HostId, network::Subnet, spec::Protocol};

use super::*;

fn id<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("an id")
}

fn directory() -> Directory {
    let mut directory = Directory::default();
    for (service, last) in
        [("default/shop/web", 1), ("default/shop/db", 2), ("default/log/in", 3), ("other/shop/web", 4)]
    {
        let listing = Listing {
            address: Some([10, 43, 0, last].into()),
            ports: vec![(80, Protocol::Tcp)],
            replicas: Some(2),
            labels: [("team".to_owned(), "red".to_owned())].into(),
            ..Listing::default()
        };
        directory.put_service(id(service), Some(listing));
    }
    for (instance, last) in [("default/shop/web/1.3", 2), ("default/shop/web/2.4", 3), ("other/shop/web/1.5", 4)] {
        directory.put_instance(id(instance), Some(Endpoint { address: [10, 42, 0, last].into(), serves: last != 3 }));
    }
    let (name, labels) = (id("h1"), [("zone".to_owned(), "a".to_owned())].into());
    let host = HostListing { id: HostId([1; 10]), name, address: Some([192, 168, 0, 1].into()), key: None, labels };
    directory.put_host(Subnet::of([10, 42, 0, 0].into()), Some(host));
    directory
}

/// The metadata of the second instance of `web` at a path, as text.
fn seen(directory: &Directory, path: &str) -> Option<String> {
    let own = id("default/shop/web/2.4");
    let address = [10, 42, 0, 3].into();
    Metadata::new(directory, &own, address).at(path).map(|value| text(&value))
}

#[test]
fn an_instance_learns_who_it_is_and_who_its_neighbours_are() {
    let directory = directory();
    for (path, expected) in [
        ("/", "2015-07-25/\n2015-12-19/\n2016-07-29/\nlatest/\n"),
        ("/latest/self/container/name", "default.shop.web.2.4"),
        ("/latest/self/container/service_index", "2"),
        ("/latest/self/container/incarnation", "4"),
        ("/latest/self/container/primary_ip", "10.42.0.3"),
        ("/latest/self/container/ips", "0\n"),
        ("/latest/self/container/ips/0", "10.42.0.3"),
        ("/latest/self/container/labels/team", "red"),
        ("/latest/self/container/state", "running"),
        ("/latest/self/container/health_state", "unhealthy"),
        ("/latest/self/service/name", "web"),
        ("/latest/self/service/scale", "2"),
        ("/latest/self/service/fqdn", "web.shop.default.wharf.internal"),
        ("/latest/self/service/containers", "0=default.shop.web.1.3\n1=default.shop.web.2.4\n"),
        ("/latest/self/stack/services", "0=db\n1=web\n"),
        ("/latest/self/stack/services/db/vip", "10.43.0.2"),
        ("/latest/self/host", "agent_ip\nhostname\nlabels/\nname\nuuid\n"),
        ("/latest/self/host/labels/zone", "a"),
        ("/2015-12-19/services", "0=in\n1=db\n2=web\n"),
        ("/latest/containers", "0=default.shop.web.1.3\n1=default.shop.web.2.4\n"),
        ("/latest/containers/default.shop.web.1.3/health_state", "healthy"),
        ("/latest/stacks", "0=log\n1=shop\n"),
        ("/latest/hosts/h1/agent_ip", "192.168.0.1"),
        ("/latest/environment_name", "default"),
    ] {
        assert_eq!(seen(&directory, path).as_deref(), Some(expected), "{path}");
    }
    let outline = seen(&directory, "/latest/").expect("it is there");
    assert_eq!(outline, "containers/\nenvironment_name\nhosts/\nself/\nservices/\nstacks/\nversion\n");
    for path in
        ["/v9", "/latest/nothing", "/latest/services/9", "/latest/self/container/name/more", "/latest/services/x"]
    {
        assert_eq!(seen(&directory, path), None, "{path}");
    }
}

#[test]
fn the_version_follows_what_is_told_and_nothing_else() {
    let mut directory = directory();
    let version = |directory: &Directory| seen(directory, "/latest/version").expect("it is there");
    let before = version(&directory);
    directory.put_instance(id("other/shop/web/1.5"), None);
    directory.put_service(id("other/shop/web"), None);
    assert_eq!(version(&directory), before, "another environment is nobody's business");
    directory
        .put_instance(id("default/shop/web/1.3"), Some(Endpoint { address: [10, 42, 0, 2].into(), serves: false }));
    assert_ne!(version(&directory), before);
}

#[test]
fn an_instance_that_the_cluster_has_not_heard_of_is_told_what_is_known() {
    let directory = Directory::default();
    assert_eq!(seen(&directory, "/latest/self/container/primary_ip").as_deref(), Some("10.42.0.3"));
    assert_eq!(seen(&directory, "/latest/self/service/name").as_deref(), Some("web"));
    assert_eq!(seen(&directory, "/latest/self/host").as_deref(), Some(""));
}
