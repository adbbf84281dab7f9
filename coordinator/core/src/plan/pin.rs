//! What a tag means for all instances of a revision.

use common::id::HostId;

use crate::{State, level};

/// The digest that an image has by more than one host's word: two hosts pulled the same, or a coordinator's host did,
/// which holds the whole cluster anyway. A host alone, if somebody has taken it over, would decide for all others.
pub(super) fn confirmed_digest<'a>(
    cluster: &State,
    pulled: impl Iterator<Item = (HostId, &'a str)> + Clone,
) -> Option<&'a str> {
    if cluster.level() < level::HOST_CLAIMS {
        return pulled.map(|(_, digest)| digest).next();
    }
    let is_confirmed = |(host, digest): &(HostId, &str)| {
        let by_another = pulled.clone().any(|(other, same)| other != *host && same == *digest);
        by_another || cluster.member_on(*host).is_some()
    };
    pulled.clone().find(is_confirmed).map(|(_, digest)| digest)
}

#[cfg(test)]
mod tests {
    use common::instance::{Observed, Phase};

    use super::*;
    use crate::{
        Command,
        testing::{Fixture, host, instance, name, stack, web},
    };

    #[test]
    fn no_host_decides_alone_what_a_tag_means() {
        let fixture = Fixture::of_hosts(4);
        let (coordinator, others) = (host(1), [host(2), host(3), host(4)]);
        let confirmed = |pulled: &[(HostId, &'static str)]| confirmed_digest(&fixture.cluster, pulled.iter().copied());
        assert_eq!(confirmed(&[]), None);
        assert_eq!(confirmed(&[(others[0], "a")]), None, "one alone");
        assert_eq!(confirmed(&[(others[0], "a"), (others[0], "a")]), None, "and it does not count twice");
        assert_eq!(confirmed(&[(others[0], "bad"), (others[1], "a")]), None, "they contradict each other");
        assert_eq!(confirmed(&[(others[0], "bad"), (others[1], "a"), (others[2], "a")]), Some("a"));
        assert_eq!(confirmed(&[(others[0], "bad"), (coordinator, "a")]), Some("a"), "it holds the cluster anyway");
    }

    #[test]
    fn a_service_is_pinned_once_a_second_host_has_pulled_the_same() {
        let mut fixture = Fixture::of_hosts(3);
        let constraint = "node.hostname != h1".parse().expect("a constraint");
        fixture.deploy(&[("web", web(|spec| (spec.replicas, spec.constraints) = (2, vec![constraint])))]);
        fixture.settle();
        let service = stack().service(name("web"));
        for (id, expected) in [("web/1.1", None), ("web/2.1", Some("sha256:ab"))] {
            let on = fixture.cluster.instances()[&instance(id)].host;
            let before = fixture.cluster.instances()[&instance(id)].observed.clone();
            let observed = Observed { image_digest: Some("sha256:ab".into()), phase: Phase::Running, ..before };
            fixture.done(Command::Observe { host: on, instances: vec![(instance(id), observed)] });
            fixture.settle();
            let pinned = fixture.cluster.service(&service).and_then(|service| service.digest.clone());
            assert_eq!(pinned.as_deref(), expected, "{id}");
        }
    }
}
