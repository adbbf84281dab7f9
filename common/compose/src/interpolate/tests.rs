use std::sync::Arc;

use proptest::prelude::*;

use super::*;

fn variables() -> BTreeMap<String, String> {
    let variables = [("A", "1"), ("E", ""), ("D", "$A"), ("_x9", "u")];
    variables.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

#[test]
fn every_form_is_expanded() {
    let cases = [
        ("$A-${A}", "1-1"),
        ("$$A $${A} $$$A", "$A ${A} $1"),
        ("${X:-d}", "d"),
        ("${E:-d}", "d"),
        ("${E-d}", ""),
        ("${X-${A}}", "1"),
        ("${X:-${Y:-${A}}}", "1"),
        ("${X:-{}}", "{}"),
        ("${X:-$${A}}", "${A}"),
        ("${A:+y}", "y"),
        ("${A:+${X:-z}}", "z"),
        ("${X:+y}", ""),
        ("${E:+y}", ""),
        ("${E+y}", "y"),
        ("${X}", ""),
        ("${D}", "$A"),
        ("${A:?x}", "1"),
        ("${E?x}", ""),
        ("$_x9/", "u/"),
        ("$1 $ a$ $- $(date)", "$1 $ a$ $- $(date)"),
    ];
    for (text, expected) in cases {
        assert_eq!(expand(text, &variables(), &mut BTreeSet::new()).as_deref(), Ok(expected), "{text}");
    }
}

#[test]
fn what_is_malformed_or_missing_is_refused_without_the_text() {
    let cases = [
        ("secret${", "is not closed by a }"),
        ("secret${}", "is not followed by the name of a variable"),
        ("secret${1}", "is not followed by the name of a variable"),
        ("secret${A", "is not closed by a }"),
        ("secret${A!x}", "is followed by '!'"),
        ("secret${A/x/y}", "is followed by '/'"),
        ("secret${A:}", "ends too early"),
        ("secret${X:?}", "the variable X is not set"),
        ("secret${X?say it with $A}", "the variable X is not set: say it with 1"),
        ("secret${E:?}", "the variable E is not set"),
    ];
    for (text, expected) in cases {
        let found = expand(text, &variables(), &mut BTreeSet::new()).expect_err(text);
        assert!(found.contains(expected) && !found.contains("secret"), "{text}: {found}");
    }
    let nested = format!("{}x{}", "${X:-".repeat(100), "}".repeat(100));
    assert!(expand(&nested, &variables(), &mut BTreeSet::new()).expect_err("is refused").contains("nested deeper"));
}

#[test]
fn what_is_not_set_and_has_no_default_is_told() {
    let cases = [
        ("$X ${X} ${Y}", "X Y"),
        ("${X:-}", ""),
        ("${X-$Y}", "Y"),
        ("${A:+$Y}", "Y"),
        ("${X:+$Y}", ""),
        ("$$X", ""),
        ("${E}", ""),
    ];
    for (text, expected) in cases {
        let mut unset = BTreeSet::new();
        expand(text, &variables(), &mut unset).expect("is expanded");
        assert_eq!(unset.into_iter().collect::<Vec<_>>().join(" "), expected, "{text}");
    }
}

#[test]
fn keys_are_taken_as_they_are() {
    let file: Arc<str> = "a.yaml".into();
    let mut node = crate::yaml::documents(&file, "{$A: $A, b: ['$X', '$X'], c: 24.10}").expect("is YAML").remove(0);
    let findings = Findings::default();
    let (variables, written) = (variables(), Cell::new(0));
    Interpolation { variables: &variables, written: &written, findings: &findings }.apply(&mut node, "");
    assert_eq!(node.get("$A").and_then(Node::as_text), Some("1"));
    let (_, warnings, _) = findings.taken();
    let told: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "a.yaml:1:14: b[0]: the variable X is not set, so it is empty here",
            "a.yaml:1:20: b[1]: the variable X is not set, so it is empty here"
        ]
    );
}

#[test]
fn the_variables_that_a_text_uses_are_found_with_their_defaults() {
    let mut found = BTreeMap::new();
    used_in("$A ${B:-b} $$C ${D:?needed} ${E-${F:-f}} ${B:-other} ${G:+$H}", 0, &mut found);
    let shown: Vec<String> = found
        .iter()
        .map(|(name, used)| format!("{name} {} {}", used.required, used.default.as_deref().unwrap_or("-")))
        .collect();
    let expected = ["A false -", "B false b", "D true -", "E false ${F:-f}", "F false f", "G false -", "H false -"];
    assert_eq!(shown, expected);
}

#[test]
fn a_brace_that_is_not_closed_takes_no_time() {
    let mut found = BTreeMap::new();
    // Minutes, if the end is looked for from each of the braces.
    used_in(&format!("$A {}", "${B:-".repeat(200_000)), 0, &mut found);
    assert_eq!(found.keys().collect::<Vec<_>>(), ["A"]);
}

proptest! {
    #[test]
    fn no_text_is_too_much(text in "[$\\{\\}:?+A-Z a-z-]{0,60}") {
        let _ = expand(&text, &variables(), &mut BTreeSet::new());
    }

    /// Escaping every `$` preserves the text.
    #[test]
    fn escaped_texts_come_back(text in "\\PC{0,60}") {
        let escaped = text.replace('$', "$$");
        prop_assert_eq!(expand(&escaped, &variables(), &mut BTreeSet::new()), Ok(text));
    }

    /// Inserted values are not expanded again.
    #[test]
    fn values_are_not_expanded(value in "\\PC{0,30}") {
        let variables = BTreeMap::from([("V".to_owned(), value.clone())]);
        prop_assert_eq!(expand("${V}", &variables, &mut BTreeSet::new()), Ok(value));
    }
}
