use super::*;
use crate::node::Form;

fn parse(text: &str) -> Result<Vec<Node>, ComposeError> {
    documents(&"a.yaml".into(), text)
}

fn one(text: &str) -> Node {
    parse(text).unwrap_or_else(|error| panic!("{error}")).remove(0)
}

fn scalar(node: &Node) -> (&str, Form) {
    match &node.value {
        Value::Scalar(scalar) => (scalar.text.as_str(), scalar.form),
        other => panic!("{other:?}"),
    }
}

#[test]
fn scalars_keep_their_text_and_their_form() {
    let cases = [
        ("24.10", "24.10", Form::Float),
        ("0x1F", "0x1F", Form::Int),
        ("1e3", "1e3", Form::Float),
        ("0440", "0440", Form::Int),
        ("+12", "+12", Form::Int),
        ("1.2.3", "1.2.3", Form::Text),
        ("1_000", "1_000", Form::Text),
        ("12:30", "12:30", Form::Text),
        ("yes", "yes", Form::Text),
        ("True", "True", Form::Bool),
        ("~", "~", Form::Null),
        ("'24'", "24", Form::Text),
        ("\"null\"", "null", Form::Text),
        ("!!str 24.10", "24.10", Form::Text),
        ("!!int '24'", "24", Form::Int),
        ("-", "", Form::Null),
        ("2024-01-01", "2024-01-01", Form::Text),
        ("0x", "0x", Form::Text),
        ("e3", "e3", Form::Text),
        (".5", ".5", Form::Float),
        ("-.inf", "-.inf", Form::Float),
    ];
    for (written, text, form) in cases {
        let node = if written == "-" {
            one("a:\n").get("a").cloned()
        } else {
            one(&format!("a: {written}")).get("a").cloned()
        };
        assert_eq!(node.as_ref().map(scalar), Some((text, form)), "{written}");
    }
}

#[test]
fn every_value_knows_its_place() {
    let node = one("\u{feff}a:\n  b: [x,\n    y]\n");
    let list = node.nearest("a.b").0;
    let places: Vec<String> = list.as_list().expect("a list").iter().map(|item| item.place.to_string()).collect();
    assert_eq!(places, ["a.yaml:2:7", "a.yaml:3:5"]);
    assert_eq!(
        node.get("a").expect("is there").as_map().expect("a mapping").entries()[0].place.to_string(),
        "a.yaml:2:3"
    );
    assert_eq!(node.nearest("a.b[1]").0.as_text(), Some("y"));
    assert_eq!(node.nearest("a.nothing.at[7].all").1.line, 1);
    let dotted = one("a.b: {c: 1}\na: {b: 2}");
    assert_eq!(dotted.nearest("a.b.c").0.as_text(), Some("1"), "keys may hold dots");
}

#[test]
fn aliases_and_merge_keys_are_expanded() {
    let node =
        one("x: &x {a: 1, b: 2}\ny: &y {b: 3, c: 4}\none: {<<: *x, b: 9}\nall: {<<: [*x, *y], d: 5}\nsame: *x\n");
    let told = |key: &str| {
        let map = node.get(key).and_then(Node::as_map).expect("a mapping");
        let mut told: Vec<String> =
            map.entries().iter().map(|e| format!("{}={}", e.key, e.node.as_text().unwrap_or("?"))).collect();
        told.sort();
        told.join(" ")
    };
    assert_eq!(
        (told("one"), told("all"), told("same")),
        ("a=1 b=9".into(), "a=1 b=2 c=4 d=5".into(), "a=1 b=2".into())
    );
    assert_eq!(scalar(one("{'<<': 1}").get("<<").expect("a key")).0, "1", "in quotes it is a key like any other");
}

#[test]
fn what_cannot_be_read_is_refused_with_its_place() {
    let cases = [
        ("a: 1\nb: 2\na: 3", "a.yaml:3:1: the key \"a\" appears twice; the first is in line 1"),
        ("a: {b: 1, b: 2}", "a.yaml:1:11: the key \"b\""),
        ("? [a]\n: b", "a key must be text"),
        ("a: {<<: 1}", "\"<<\" takes a mapping"),
        ("a: {<<: [1]}", "\"<<\" takes a mapping"),
        ("a: {<<: {b: 1}, <<: {c: 1}}", "the key \"<<\" appears twice"),
        ("a: !vault x", "the tag !vault is not supported"),
        ("a: &a [*a]", "an alias refers to a value that contains it"),
        ("a: *b", "a.yaml:1:4: it is not YAML"),
        ("a: [", "it is not YAML"),
        ("a:\n\tb: 1", "a.yaml:2:"),
        ("a: 'x", "it is not YAML"),
    ];
    for (text, expected) in cases {
        let found = parse(text).expect_err(text).to_string();
        assert!(found.contains(expected), "{text:?}: {found}");
    }
}

#[test]
fn bombs_are_refused_before_they_grow() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let references = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{references}]\n"));
    }
    let mut tower = "a0: &a0 [x]\n".to_owned();
    for level in 1..200 {
        tower.push_str(&format!("a{level}: &a{level} [*a{}]\n", level - 1));
    }
    let deep = format!("a: {}{}", "[".repeat(3000), "]".repeat(3000));
    let long = format!("a: &a {}\nb: [{}]", "x".repeat(300_000), "*a,".repeat(100));
    let named = format!("a: &a {{ {}: 1 }}\nb: [{}]", "x".repeat(1000), "*a,".repeat(20_000));
    let wide = (0..MAX_KEYS + 2).map(|key| format!("k{key}: 1\n")).collect::<String>();
    let cases = [
        (bomb, "more than 200000 values"),
        (tower, "nested deeper"),
        (deep, "nested deeper"),
        (long, "more than 16777216 bytes of text once its aliases are expanded"),
        (named, "more than 16777216 bytes"),
        (format!("? {}\n: 1", "x".repeat(MAX_KEY + 1)), "a key has more than 4096 bytes"),
        (wide, "more than 10000 keys"),
        (format!("a: {}", "x".repeat(MAX_FILE)), "at most 1048576 are allowed"),
    ];
    for (text, expected) in cases {
        let found = parse(&text).expect_err(expected).to_string();
        assert!(found.contains(expected), "{found}");
    }
}

#[test]
fn empty_documents_are_left_out() {
    assert_eq!(parse("").expect("is read").len(), 0);
    assert_eq!(parse("---\n---\na: 1\n---\n# nothing\n---\nb: 2\n").expect("is read").len(), 2);
}
