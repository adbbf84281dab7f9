//! Files that refer to other files: `extends`, `include`, and the printed result.

use super::*;

fn document(texts: &[&str], files: &[(&str, &str)]) -> Result<String, String> {
    let sources: Vec<Source> = texts
        .iter()
        .enumerate()
        .map(|(i, text)| Source { name: format!("compose{i}.yaml"), text: (*text).to_owned() })
        .collect();
    let variables = BTreeMap::from([("TAG".to_owned(), "7".to_owned())]);
    let read = |path: &str| {
        let found = files.iter().find(|(name, _)| absolute_name(name) == path);
        found.map(|(_, text)| text.as_bytes().to_vec()).ok_or(ReadError::Missing)
    };
    let project = Project { variables: &variables, directory: "/srv/shop", profiles: &[], wanted: &[], read: &read };
    let document = load(&sources, &project).map_err(|error| error.to_string())?;
    let (problems, _) = document.findings();
    if problems.is_empty() { Ok(to_yaml(document.root())) } else { Err(lines(&problems)) }
}

#[track_caller]
fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} in\n{text}");
    }
}

#[test]
fn a_service_extends_another_one() {
    let base = "
services:
  base:
    extends: {service: root}
    image: base:${TAG}
    env_file: base.env
    volumes: ['./data:/data']
    ports: ['80:80']
    command: [a]
    environment: {A: 1, B: 2}
    depends_on: [db]
  root: {image: root, user: r, cap_add: [ONE]}
";
    let main = "
services:
  web:
    extends: {file: lib/base.yaml, service: base}
    environment: [B=3]
    ports: !override ['81:81']
    cap_add: [TWO]
  again: {extends: web, image: other}
  db: {image: pg}
";
    let found = document(&[main], &[("lib/base.yaml", base)]).unwrap_or_else(|e| panic!("{e}"));
    has(
        &found,
        &["source: /srv/shop/lib/data", "path: /srv/shop/lib/base.env", "image: base:7", "user: r", "B: \"3\"", "A: 1"],
    );
    has(&found, &["published: \"81\"", "      - ONE\n      - TWO\n", "image: other"]);
    assert!(!found.contains("published: \"80\"") && !found.contains("extends"), "{found}");

    // Keys that an extending service resets are also removed from earlier files.
    let first = "services: {web: {image: a, ports: ['1:1'], user: x}}";
    let second =
        "services: {b: {image: b, ports: ['2:2']}, web: {extends: b, ports: !override ['3:3'], user: !reset null}}";
    let found = document(&[first, second], &[]).unwrap_or_else(|e| panic!("{e}"));
    let web =
        found.split("  web:").nth(1).and_then(|rest| rest.split("\n  b:").next()).expect("it is there").to_owned();
    assert!(
        web.contains("\"3\"") && !web.contains("\"1\"") && !web.contains("\"2\"") && !web.contains("user"),
        "{web}"
    );
}

#[test]
fn what_cannot_be_extended_is_refused() {
    let cases = [
        ("services: {a: {extends: b}, b: {extends: a}}", "services.a.extends: a extends itself, through b"),
        ("services: {a: {extends: a}}", "a extends itself"),
        ("services: {a: {extends: nobody}}", "services.a.extends: there is no service nobody in compose0.yaml"),
        ("services: {a: {extends: {service: x, file: none.yaml}}}", "none.yaml: there is no such file"),
        ("services: {a: {extends: {service: x, file: lib.yaml}}}", "there is no service x in lib.yaml"),
        ("services: {a: {extends: {file: lib.yaml}}}", "service is missing"),
        ("services: {a: {extends: {service: loop, file: lib.yaml}}}", "loop extends itself"),
        ("services: {a: {extends: {service: x, file: bad.yaml}}}", "bad.yaml: bad.yaml:2:1: it is not YAML"),
        ("services: {a: {extends: {service: x, file: 'https://a/b.yaml'}}}", "wharf does not fetch remote files"),
        ("services: {a: {extends: {service: x, fille: b}}}", "services.a.extends"),
    ];
    let files = [("lib.yaml", "services: {loop: {extends: {service: loop, file: lib.yaml}}}"), ("bad.yaml", "a: [")];
    for (text, expected) in cases {
        let found = document(&[text], &files).expect_err(text);
        assert!(found.contains(expected), "{text}: {found}");
    }
}

#[test]
fn other_projects_are_included() {
    let db = "
services:
  db: {image: 'pg:${VERSION}', env_file: own.env, volumes: ['./init:/init', 'data:/data'], environment: [VERSION]}
volumes: {data: }
secrets: {pw: {file: pw.txt}}
";
    let more = "services: {db: {user: x}}";
    let main = "
include:
  - {path: [db/compose.yaml, db/more.yaml]}
  - {path: other/compose.yaml, project_directory: ., env_file: other.env}
services: {web: {image: a, depends_on: [db]}}
";
    let files = [
        ("db/compose.yaml", db),
        ("db/more.yaml", more),
        ("db/.env", "VERSION=17\nTAG=no\n"),
        ("other/compose.yaml", "services: {other: {image: 'o:${TAG}-${O}', volumes: ['./x:/x'], command: ['$$HOME']}}"),
        ("other.env", "O=o\n"),
    ];
    let found = document(&[main], &files).unwrap_or_else(|e| panic!("{e}"));
    has(
        &found,
        &["image: pg:17", "VERSION: \"17\"", "user: x", "source: /srv/shop/db/init", "path: /srv/shop/db/own.env"],
    );
    has(&found, &["file: /srv/shop/db/pw.txt", "image: o:7-o", "source: /srv/shop/x", "$HOME"]);
    assert!(!found.contains("include"), "{found}");
    // A second file changes what the first includes.
    let found = document(&[main, "services: {db: {user: !reset null}}"], &files).unwrap_or_else(|e| panic!("{e}"));
    assert!(!found.contains("user: x"), "{found}");
}

#[test]
fn what_cannot_be_included_is_refused() {
    let cases = [
        ("include: [loop.yaml]", "include[0]: loop.yaml includes itself"),
        ("include: [none.yaml]", "include[0]: none.yaml: there is no such file"),
        ("include: [{project_directory: .}]", "path is missing"),
        ("include: [{path: ok.yaml, env_file: none.env}]", "none.env: there is no such file"),
        ("include: [{path: ok.yaml, envfile: x}]", "\"envfile\" is not a key of include"),
        ("include: ok.yaml", "expected a list, found text"),
        (
            "include: [ok.yaml]\nservices: {a: {image: y}}",
            "compose0.yaml:2:12: services.a: ok.yaml defines it differently",
        ),
        ("include: [{path: ok.yaml, env_file: bad.env}]", "bad.env: line 2: it does not start"),
    ];
    let files = [
        ("loop.yaml", "include: [loop.yaml]"),
        ("ok.yaml", "services: {a: {image: x}}"),
        ("bad.env", "A=1\nsecret words\n"),
    ];
    for (text, expected) in cases {
        let found = document(&[text], &files).expect_err(text);
        assert!(found.contains(expected) && !found.contains("secret"), "{text}: {found}");
    }
    assert!(
        document(&["include: [ok.yaml]\nservices: {a: {image: x}}"], &files).is_ok(),
        "the same twice is no conflict"
    );
}

#[test]
fn files_are_asked_for_by_a_path_without_detours() {
    let asked = std::cell::RefCell::new(Vec::new());
    let read = |path: &str| {
        asked.borrow_mut().push(path.to_owned());
        Err(ReadError::Missing)
    };
    let text = "
include: [../x/./y/../compose.yaml]
services:
  web: {image: a, env_file: ['../a/../b.env', /abs//c.env, '~/d.env', \"n\\0l\"], extends: {file: ./../e.yaml, service: x}}
secrets: {s: {file: ./s.txt}}
";
    let sources = [Source { name: "compose.yaml".into(), text: text.into() }];
    let variables = BTreeMap::from([("HOME".to_owned(), "/home/me".to_owned())]);
    let project = Project { variables: &variables, directory: "/srv/shop", profiles: &[], wanted: &[], read: &read };
    let found = compose(&sources, &project).expect_err("nothing is there").to_string();
    assert!(found.contains("control character"), "{found}");
    let asked = asked.into_inner();
    let expected =
        ["/srv/e.yaml", "/srv/x/compose.yaml", "/srv/shop/s.txt", "/srv/b.env", "/abs/c.env", "/home/me/d.env"];
    assert_eq!(asked, expected);
}

#[test]
fn several_documents_of_a_file_are_merged() {
    let found = document(&["services: {a: {image: x}}\n---\nservices: {a: {user: me}}\n"], &[])
        .unwrap_or_else(|e| panic!("{e}"));
    has(&found, &["image: x", "user: me"]);
}

#[test]
fn the_canonical_form_is_that_of_compose() {
    let text = "
services:
  web:
    image: a
    command: serve --all
    environment: [B=1, A, 'D=$$x']
    env_file: e.env
    ports: ['8080:80']
    volumes: ['data:/data', './x:/x:ro']
    healthcheck: {test: x, interval: 90s}
    mem_limit: 512m
    tty: 'true'
volumes: {data: }
";
    let sources = [Source { name: "compose.yaml".into(), text: text.into() }];
    let read = |path: &str| if path == "/srv/shop/e.env" { Ok(b"C=2\n".to_vec()) } else { Err(ReadError::Missing) };
    let project =
        Project { variables: &BTreeMap::new(), directory: "/srv/shop", profiles: &[], wanted: &[], read: &read };
    let document = load(&sources, &project).expect("is read");
    let expected = "\
name: shop
networks:
  default:
    name: shop_default
services:
  web:
    command:
      - serve
      - \"--all\"
    entrypoint: null
    environment:
      A: null
      B: \"1\"
      C: \"2\"
      D: \"$$x\"
    healthcheck:
      interval: 1m30s
      test:
        - CMD-SHELL
        - x
    image: a
    mem_limit: \"536870912\"
    networks:
      default: null
    ports:
      - mode: ingress
        protocol: tcp
        published: \"8080\"
        target: 80
    tty: true
    volumes:
      - source: data
        target: /data
        type: volume
        volume: {}
      - bind:
          create_host_path: true
        read_only: true
        source: /srv/shop/x
        target: /x
        type: bind
volumes:
  data:
    name: shop_data
";
    assert_eq!(to_yaml(&document.canonical(&project, "shop")), expected);
    let uses: Vec<String> = document.uses().iter().map(|used| format!("{} {:?}", used.path, used.does)).collect();
    assert!(uses.contains(&"services.web.tty Done".to_owned()), "{uses:?}");
}

#[test]
fn values_that_grow_by_their_variables_are_refused() {
    let value = "x".repeat(1 << 20);
    let text = format!("services: {{web: {{image: a, command: [{}]}}}}", "$BIG,".repeat(1000));
    let refused = read_with(&[&text], &[("BIG", &value)], &[], &[]).expect_err("is refused").to_string();
    assert!(refused.contains("more than 16777216 bytes with their variables replaced"), "{}", &refused[..200]);
}
