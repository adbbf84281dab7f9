use std::collections::BTreeSet;

use super::*;

fn documented() -> BTreeSet<(String, String)> {
    let json = serde_json::to_value(document()).expect("serialises");
    let paths = json["paths"].as_object().expect("has paths").clone();
    let methods = paths.into_iter().flat_map(|(path, item)| {
        let methods: Vec<String> = item.as_object().expect("is an object").keys().cloned().collect();
        methods.into_iter().map(move |method| (method.to_uppercase(), path.clone()))
    });
    methods.filter(|(method, _)| ["GET", "PUT", "POST", "DELETE", "PATCH"].contains(&method.as_str())).collect()
}

#[test]
fn every_route_has_a_policy_and_every_policy_a_route() {
    let policies: BTreeSet<(String, String)> =
        access::POLICY.iter().map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned())).collect();
    assert_eq!(policies.len(), access::POLICY.len(), "no route has two policies");
    let documented = documented();
    assert!(documented.len() > 25);
    let without: Vec<_> = documented.difference(&policies).collect();
    assert!(without.is_empty(), "routes without a policy are denied to everybody: {without:?}");
    let pages = ["/join", "/ca", "/dl/{file}"];
    let stale: Vec<_> = policies.difference(&documented).filter(|(_, path)| !pages.contains(&path.as_str())).collect();
    assert!(stale.is_empty(), "policies without a route: {stale:?}");
}

#[test]
fn only_what_must_is_open_to_anybody() {
    let open: Vec<&str> =
        access::POLICY.iter().filter(|(.., needs)| *needs == access::Needs::Nobody).map(|(_, path, _)| *path).collect();
    assert_eq!(open, ["/join", "/dl/{file}", "/ca", "/api/v1/join"]);
    let changes = |method: &str| method != "GET";
    for (method, path, needs) in
        access::POLICY.iter().filter(|(method, path, _)| changes(method) && *path != "/api/v1/join")
    {
        assert_eq!(*needs, access::Needs::Token(common::api::Access::Admin), "{method} {path}");
    }
    assert_eq!(access::needs(&axum::http::Method::PATCH, "/api/v1/hosts"), None);
    assert_eq!(access::needs(&axum::http::Method::GET, "/api/v1/secret"), None);
}

#[test]
fn the_document_is_openapi_3_1() {
    let json = serde_json::to_value(document()).expect("serialises");
    assert!(json["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")), "{}", json["openapi"]);
    assert!(json["components"]["schemas"]["StackPlan"].is_object());
}
