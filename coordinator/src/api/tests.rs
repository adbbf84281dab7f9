use std::{collections::BTreeSet, path::Path};

use common::role::{Permission, Role};

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
        assert!(!matches!(needs, access::Needs::Nobody | access::Needs::Token(Permission::Read, _)), "{method} {path}");
    }
    assert_eq!(access::needs(&axum::http::Method::PATCH, "/api/v1/hosts"), None);
    assert_eq!(access::needs(&axum::http::Method::GET, "/api/v1/secret"), None);
}

/// What a role lets through: for every environment, for the ones that a token names, or nothing.
fn cell(needs: access::Needs, role: Role) -> &'static str {
    match needs {
        access::Needs::Nobody => "no token",
        access::Needs::Token(permission, _) if !role.permits(permission) => "",
        access::Needs::Token(_, access::Place::Cluster) => "cluster",
        access::Needs::Token(_, access::Place::Environment) => "environment",
        access::Needs::Token(_, access::Place::Anywhere) => "covered",
    }
}

/// The table of `docs/access.md`, made from the router's own list of routes.
fn matrix() -> String {
    let mut lines =
        vec!["| request | viewer | operator | deployer | admin |".to_owned(), "|---|---|---|---|---|".to_owned()];
    for (method, path) in documented() {
        let needs = access::needs(&method.parse().expect("a method"), &path).expect("it has a policy");
        let cells = Role::ALL.map(|role| cell(needs, role));
        lines.push(
            format!("| `{method} {path}` | {} |", cells.join(" | ")).replace("|  |", "| |").replace("|  |", "| |"),
        );
    }
    lines.join("\n")
}

#[test]
fn the_documented_table_of_routes_and_roles_is_the_one_in_force() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/access.md");
    let text = std::fs::read_to_string(&path).expect("docs/access.md is there");
    let (before, rest) = text.split_once("<!-- routes -->\n").expect("it marks where the table begins");
    let (table, after) = rest.split_once("\n<!-- end -->").expect("it marks where the table ends");
    let matrix = matrix();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, format!("{before}<!-- routes -->\n{matrix}\n<!-- end -->{after}"))
            .expect("it is written");
    } else {
        assert_eq!(table, matrix, "UPDATE=1 writes the table anew; look at what changed");
    }
}

#[test]
fn the_document_is_openapi_3_1() {
    let json = serde_json::to_value(document()).expect("serialises");
    assert!(json["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")), "{}", json["openapi"]);
    assert!(json["components"]["schemas"]["StackPlan"].is_object());
}
