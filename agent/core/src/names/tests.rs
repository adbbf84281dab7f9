//! Names as a container, a host and a stranger would ask for them.

use common::directory::{Endpoint, Listing};

use super::*;

fn id<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("an id")
}

fn directory() -> Directory {
    let mut directory = Directory::default();
    let services: [(&str, Option<u8>); 4] = [
        ("default/shop/web", Some(1)),
        ("default/shop/db", None),
        ("default/blog/web", Some(2)),
        ("live/shop/web", Some(3)),
    ];
    for (service, last) in services {
        let address = last.map(|last| [10, 43, 0, last].into());
        let ports = vec![(80, Protocol::Tcp), (53, Protocol::Udp)];
        directory.put_service(id(service), Some(Listing { address, ports, ..Listing::default() }));
    }
    for (instance, last, serves) in [
        ("default/shop/web/1.1", 2, true),
        ("default/shop/web/2.1", 3, false),
        ("default/shop/db/1.1", 4, false),
        ("default/shop/db/1.2", 5, true),
        ("default/shop/db/2.1", 6, true),
        ("live/shop/web/1.1", 7, true),
    ] {
        directory.put_instance(id(instance), Some(Endpoint { address: [10, 42, 0, last].into(), serves }));
    }
    directory
}

#[test]
fn further_names_count_on_the_network_that_they_were_given_on() {
    let mut directory = directory();
    let network = |name: &str, aliases: &[&str]| {
        let aliases = aliases.iter().map(|alias| alias.parse().expect("a host name")).collect();
        (name.parse().expect("a name"), aliases)
    };
    let mut put = |service: &str, last: u8, networks: Vec<(Name, std::collections::BTreeSet<common::spec::Alias>)>| {
        let address = Some([10, 43, 0, last].into());
        let listing = Listing { address, networks: networks.into_iter().collect(), ..Listing::default() };
        directory.put_service(id(service), Some(listing));
    };
    put("default/shop/web", 1, vec![network("front", &["www"])]);
    put("default/shop/api", 4, vec![network("front", &["cache.example"]), network("back", &["Cache", "both"])]);
    put("default/shop/db", 5, vec![network("back", &["both"]), network("default", &["open"])]);
    let asked = |service: &str, name: &str| {
        let asker = Asker::Instance(id(&format!("{service}/1.1")));
        match answer(&directory, &NetworkPlan::default(), Question { asker: &asker, name, kind: Kind::Address }) {
            Answer::Known(records) => records
                .iter()
                .map(|r| format!("{r:?}").replace("Address(10.43.0.", "").replace(')', ""))
                .collect::<Vec<_>>()
                .join(" "),
            other => format!("{other:?}"),
        }
    };
    for (asker, name, found) in [
        ("default/shop/web", "cache.example", "4"),
        ("default/shop/web", "api", "4"),
        ("default/shop/api", "www", "1"),
        ("default/shop/db", "cache", "4"),
        ("default/shop/api", "cache.shop.default.wharf.internal", "4"),
        ("default/shop/api", "both", "4 5"),
        // Not on a network of it: neither by that name nor by another.
        ("default/shop/web", "cache", "Unknown"),
        ("default/shop/web", "db", "Unknown"),
        ("default/shop/web", "both.shop.default.wharf.internal", "Unknown"),
        // All of an environment find the services on its own network, and not those on others.
        ("default/blog/web", "db.shop", "5"),
        ("default/blog/web", "open.shop.default.wharf.internal", "5"),
        ("default/blog/web", "api.shop.default.wharf.internal", "Unknown"),
        ("default/blog/web", "open", "Unknown"),
    ] {
        assert_eq!(asked(asker, name), found, "{name} by {asker}");
    }
}

fn ask(asker: &Asker, name: &str, kind: Kind) -> Answer {
    answer(&directory(), &NetworkPlan::default(), Question { asker, name, kind })
}

fn shop() -> Asker {
    Asker::Instance(id("default/shop/web/1.1"))
}

fn addresses(asker: &Asker, name: &str) -> String {
    match ask(asker, name, Kind::Address) {
        Answer::Known(records) => {
            let text = |record: &Record| match record {
                Record::Address(address) => address.to_string(),
                other => format!("{other:?}"),
            };
            records.iter().map(text).collect::<Vec<_>>().join(" ")
        }
        other => format!("{other:?}"),
    }
}

#[test]
fn a_container_finds_what_is_of_its_environment() {
    for (name, found) in [
        ("web", "10.43.0.1"),
        ("WEB", "10.43.0.1"),
        ("web.blog", "10.43.0.2"),
        ("web.shop.default", "10.43.0.1"),
        ("web.shop.default.wharf.internal", "10.43.0.1"),
        // Without an address of its own, a service is where its instances serve.
        ("db", "10.42.0.5 10.42.0.6"),
        ("tasks.web", "10.42.0.2"),
        ("tasks.db.shop.default.wharf.internal", "10.42.0.5 10.42.0.6"),
        // An instance by its slot: the newest, and also before it serves.
        ("1.db", "10.42.0.5"),
        ("2.web.shop", "10.42.0.3"),
        ("3.web", "Unknown"),
        ("3.web.shop", "Unknown"),
        ("3.nobody.blog", "Unknown"),
        ("nobody.blog", "Unknown"),
        ("nobody.shop.default", "Unknown"),
        ("3.web.shop.default.wharf.internal", "Unknown"),
        ("nobody", "Unknown"),
        ("web.default.wharf.internal", "Unknown"),
        ("wharf.internal", ""),
        // Metadata, also as a resolver asks for it that knows the search domain.
        ("rancher-metadata", "169.254.169.250"),
        ("rancher-metadata.shop.default.wharf.internal", "169.254.169.250"),
        ("metadata.wharf.internal", "169.254.169.250"),
        // Other environments are as if they were not there.
        ("web.shop.live", "Unknown"),
        ("web.shop.live.wharf.internal", "Unknown"),
        // The world.
        ("example.com", "Elsewhere"),
        ("notwharf.internal", "Elsewhere"),
        ("a.b.c.d.e", "Elsewhere"),
        ("we_b.shop", "Unknown"),
        // Stacks are nothing by themselves, and what no stack is called may be anybody's.
        ("www.example.shop", "Elsewhere"),
        ("web.nostack", "Elsewhere"),
        ("163.com", "Elsewhere"),
        ("tasks.org", "Elsewhere"),
        ("", "Unknown"),
    ] {
        assert_eq!(addresses(&shop(), name), found, "{name:?}");
    }
    assert_eq!(addresses(&Asker::Instance(id("live/shop/web/1.1")), "web"), "10.43.0.3");
}

#[test]
fn hosts_ask_by_whole_names_and_strangers_learn_nothing() {
    assert_eq!(addresses(&Asker::Host, "web.shop.live.wharf.internal"), "10.43.0.3");
    assert_eq!(addresses(&Asker::Host, "web"), "Unknown");
    assert_eq!(addresses(&Asker::Host, "web.shop"), "Elsewhere");
    assert_eq!(addresses(&Asker::Stranger, "web.shop.default.wharf.internal"), "Unknown");
    assert_eq!(ask(&Asker::Stranger, "2.0.42.10.in-addr.arpa", Kind::Pointer), Answer::Unknown);
}

#[test]
fn other_kinds_of_records_are_ports_names_or_nothing() {
    let port = |target: &str, last: u8| Record::Service {
        port: 80,
        target: format!("{target}.wharf.internal"),
        address: [10, 42, 0, last].into(),
    };
    let two = vec![port("1.db.shop.default", 5), port("2.db.shop.default", 6)];
    assert_eq!(ask(&shop(), "db", Kind::Service), Answer::Known(two));
    assert_eq!(ask(&shop(), "web", Kind::Other), Answer::Known(vec![]), "as for IPv6: the name is there");
    let pointer = |name: &str| Answer::Known(vec![Record::Pointer(name.to_owned())]);
    for (name, found) in [
        ("2.0.42.10.in-addr.arpa", pointer("1.web.shop.default.wharf.internal")),
        ("1.0.43.10.in-addr.arpa", pointer("web.shop.default.wharf.internal")),
        ("7.0.42.10.in-addr.arpa", Answer::Unknown),
        ("9.9.42.10.in-addr.arpa", Answer::Unknown),
        ("8.8.8.8.in-addr.arpa", Answer::Elsewhere),
    ] {
        assert_eq!(ask(&shop(), name, Kind::Pointer), found, "{name}");
    }
}

#[test]
fn who_asks_is_known_by_the_address() {
    let directory = directory();
    let new: InstanceId = id("default/blog/web/1.1");
    let residents = [(Ipv4Addr::new(10, 42, 0, 9), new.clone().into())].into();
    let asked = |last: u8| {
        let from = IpAddr::from([10, 42, 0, last]);
        asker(&directory, &residents, &NetworkPlan::default(), from)
    };
    assert_eq!(asked(9), Asker::Instance(new.clone()), "known to its host first");
    assert_eq!(asked(2), Asker::Instance(id("default/shop/web/1.1")));
    assert_eq!(asked(0), Asker::Host);
    assert_eq!(asked(77), Asker::Stranger);
}
